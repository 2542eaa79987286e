//! Reads the clocks of this machine.
//!
//! Layer: shell. Input: none. Output: [`Timestamp`], [`Nanos`].
//! Source: `clock_gettime(2)`; the programs stamp with `bpf_ktime_get_boot_ns`, which is `CLOCK_BOOTTIME`.
//! Keeps: no other module reads a clock.
//! Not here: waiting (`live`, `session`).

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::units::{Nanos, Timestamp};

const NANOS_PER_SEC: i64 = 1_000_000_000;

/// Now, on `CLOCK_BOOTTIME`.
#[must_use]
pub fn boottime() -> Timestamp {
    Timestamp::from_nanos(nanos(clock_gettime(ClockId::Boottime)).cast_unsigned())
}

/// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME`, in nanoseconds.
#[must_use]
pub fn realtime_offset_ns() -> i64 {
    let boot_before = nanos(clock_gettime(ClockId::Boottime));
    let real = nanos(clock_gettime(ClockId::Realtime));
    let boot_after = nanos(clock_gettime(ClockId::Boottime));
    real - (boot_before + (boot_after - boot_before) / 2)
}

/// CPU time of this process so far, all threads, user and kernel mode.
#[must_use]
pub fn own_cpu_time() -> Nanos {
    Nanos::new(nanos(clock_gettime(ClockId::ProcessCPUTime)).cast_unsigned())
}

/// Nanoseconds since the clock's origin: enough for 292 years.
fn nanos(time: Timespec) -> i64 {
    time.tv_sec * NANOS_PER_SEC + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{SystemTime, UNIX_EPOCH},
    };

    use super::*;

    #[test]
    fn boottime_agrees_with_proc_uptime() {
        let uptime = fs::read_to_string("/proc/uptime").expect("proc is mounted");
        let seconds: f64 = uptime
            .split(' ')
            .next()
            .and_then(|field| field.parse().ok())
            .expect("uptime begins with seconds");

        let now = std::time::Duration::from_nanos(boottime().as_nanos()).as_secs_f64();

        // The file is in hundredths of a second; a second covers a machine that is busy.
        assert!((now - seconds).abs() < 1.0, "{now} s by the clock, {seconds} s by /proc/uptime");
    }

    #[test]
    fn boottime_plus_offset_is_the_wall_clock() {
        let offset = realtime_offset_ns();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");

        let ours = i128::from(boottime().as_nanos()) + i128::from(offset);
        let wall = i128::try_from(wall.as_nanos()).expect("fits for ages");

        assert!((ours - wall).abs() < i128::from(NANOS_PER_SEC), "{ours} against {wall}");
    }
}
