//! Reads the clocks of this machine.
//!
//! Layer: shell. Input: none. Output: [`Timestamp`], [`Nanos`].
//! Source: `clock_gettime(2)`; the programs stamp with `bpf_ktime_get_boot_ns`, which is `CLOCK_BOOTTIME` of the initial time
//! namespace, and so is the clock of perf (`time_namespaces(7)`).
//! Keeps: no other module reads a clock.
//! Not here: waiting (`live`, `session`).

use std::{fs, sync::LazyLock};

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::namespace::Namespace;
use crate::units::{Nanos, Timestamp};

const NANOS_PER_SEC: i64 = 1_000_000_000;

/// What the time namespace of this process adds to `CLOCK_BOOTTIME`, in nanoseconds; `None` if the kernel does not tell.
static SHIFT: LazyLock<Option<i64>> = LazyLock::new(|| {
    if Namespace::Time.is_initial() {
        return Some(0);
    }
    // The file has the offsets of the namespace of what this process starts.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").ok()?;
    if Namespace::Time.is_inherited() { shift_of(&offsets) } else { None }
});

/// Nanoseconds that `offsets`, in the form of `/proc/PID/timens_offsets`, add to `CLOCK_BOOTTIME`.
fn shift_of(offsets: &str) -> Option<i64> {
    let mut numbers = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let mut number = || numbers.next()?.parse::<i64>().ok();
    Some(number()? * NANOS_PER_SEC + number()?)
}

/// Whether [`boottime`] is the clock of the programs, whatever the time namespace of this process.
#[must_use]
pub fn is_boottime_known() -> bool {
    SHIFT.is_some()
}

/// Now, on `CLOCK_BOOTTIME` of the initial time namespace.
#[must_use]
pub fn boottime() -> Timestamp {
    let shifted = nanos(clock_gettime(ClockId::Boottime));
    Timestamp::from_nanos((shifted - SHIFT.unwrap_or(0)).cast_unsigned())
}

/// `CLOCK_REALTIME` minus [`boottime`], in nanoseconds.
#[must_use]
pub fn realtime_offset_ns() -> i64 {
    let boot = || boottime().as_nanos().cast_signed();
    let boot_before = boot();
    let real = nanos(clock_gettime(ClockId::Realtime));
    let boot_after = boot();
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
    fn offset_of_a_time_namespace_has_seconds_and_nanoseconds() {
        let offsets = "monotonic           7         0\nboottime         -100 500000000\n";

        assert_eq!(shift_of(offsets), Some(-99_500_000_000));
        assert_eq!(shift_of("monotonic 7 0\n"), None);
        assert_eq!(shift_of("boottime 7\n"), None);
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
