//! Fault records column by column, each value as its difference from what its neighbour predicts.
//!
//! Layer: codec. Input: bytes of [`FaultEvent`]s as the ring held them. Output: bytes that compress well, and back.
//! Source: `memtrace_ebpf::FaultEvent`.
//! Keeps: whole records come back byte for byte.
//! Not here: compression (`chunk`), records of other lengths (`frames` keeps those as they are).
//!
//! Time and thread differ little from one record to the next; address, instruction pointer, CPU, flags and kind
//! differ little from the same thread's record before. Latencies are stored as they are: differences of noise are
//! more noise. A column is a mask of its bytes that are not zero throughout, then one plane for each such byte. Their number comes
//! first: a field that is added to the record gets a column behind the others, which is zero in older recordings.

use memtrace_ebpf::{FaultEvent, FaultKind};

const COLUMNS: u8 = 9;

/// Threads whose last record is remembered; thread IDs of one program are close together.
const THREADS: usize = 64;

/// Whether `bytes` are whole records.
pub(super) const fn are_regular(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(FaultEvent::LEN)
}

/// What the next record is expected to repeat.
struct Neighbours {
    previous: FaultEvent,
    of_thread: [FaultEvent; THREADS],
}

impl Neighbours {
    fn new() -> Self {
        Self { previous: FaultEvent::default(), of_thread: [FaultEvent::default(); THREADS] }
    }

    /// The last record of the thread `tid`, or of one that shares its place.
    fn of_thread(&mut self, tid: u32) -> &mut FaultEvent {
        &mut self.of_thread[tid as usize % THREADS]
    }
}

/// Appends the columns of `bytes`, which [`are_regular`], to `out`; returns the earliest and the latest time in
/// nanoseconds since boot.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) -> Option<(u64, u64)> {
    let (records, _) = bytes.as_chunks::<{ FaultEvent::LEN }>();
    let mut columns: [Vec<u64>; COLUMNS as usize] =
        std::array::from_fn(|_| Vec::with_capacity(records.len()));
    let mut span: Option<(u64, u64)> = None;
    let mut neighbours = Neighbours::new();
    for fault in records.iter().filter_map(|record| FaultEvent::from_bytes(record)) {
        let FaultEvent { time_ns, addr, ip, tid, cpu, flags, kind, latency_low: _, latency_high: _, stack } =
            fault;
        let (first, last) = span.unwrap_or((time_ns, time_ns));
        span = Some((first.min(time_ns), last.max(time_ns)));
        let previous = std::mem::replace(&mut neighbours.previous, fault);
        let before = std::mem::replace(neighbours.of_thread(tid), fault);
        let values = [
            zigzag(time_ns.wrapping_sub(previous.time_ns)),
            u64::from(tid ^ previous.tid),
            zigzag(addr.wrapping_sub(before.addr)),
            zigzag(ip.wrapping_sub(before.ip)),
            fault.latency_bits(),
            u64::from(cpu ^ before.cpu),
            u64::from(flags ^ before.flags),
            u64::from(kind.0 ^ before.kind.0),
            stack ^ before.stack,
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    out.push(COLUMNS);
    for column in &columns {
        put_planes(column, out);
    }
    span
}

/// Takes the columns of `count` records from the front of `rest`; `None` if they are malformed.
///
/// A record has a time, so that one plane at least has a byte for each: there are no more records than bytes.
pub(super) fn decode(rest: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    if count > rest.len() {
        return None;
    }
    let mut columns: [Vec<u64>; COLUMNS as usize] = std::array::from_fn(|_| vec![0; count]);
    for place in 0..usize::from(*rest.split_off_first()?) {
        let column = take_planes(rest, count)?;
        // Those of later builds are passed over.
        if let Some(known) = columns.get_mut(place) {
            *known = column;
        }
    }
    let [time, tid, addr, ip, latency, cpu, flags, kind, stack] = columns;
    let mut out = Vec::with_capacity(count * FaultEvent::LEN);
    let mut neighbours = Neighbours::new();
    for row in 0..count {
        let previous = neighbours.previous;
        let tid = previous.tid ^ u32::try_from(tid[row]).ok()?;
        let before = neighbours.of_thread(tid);
        let fault = FaultEvent {
            time_ns: previous.time_ns.wrapping_add(unzigzag(time[row])),
            addr: before.addr.wrapping_add(unzigzag(addr[row])),
            ip: before.ip.wrapping_add(unzigzag(ip[row])),
            tid,
            cpu: before.cpu ^ u16::try_from(cpu[row]).ok()?,
            flags: before.flags ^ u16::try_from(flags[row]).ok()?,
            kind: FaultKind(before.kind.0 ^ u8::try_from(kind[row]).ok()?),
            stack: before.stack ^ stack[row],
            ..FaultEvent::default()
        }
        .with_latency_bits(latency[row])?;
        *before = fault;
        neighbours.previous = fault;
        out.extend_from_slice(&fault.to_bytes());
    }
    Some(out)
}

/// A difference with its sign in the lowest bit, so that small ones of either sign are small numbers.
const fn zigzag(difference: u64) -> u64 {
    let sign = difference.cast_signed() >> 63;
    (difference << 1) ^ sign.cast_unsigned()
}

const fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

fn put_planes(column: &[u64], out: &mut Vec<u8>) {
    let used = column.iter().fold(0, |used, value| used | value).to_le_bytes();
    let planes = used.map(|byte| byte != 0);
    out.push((0..8).fold(0, |mask, plane| mask | u8::from(planes[plane]) << plane));
    for plane in (0..8).filter(|plane| planes[*plane]) {
        out.extend(column.iter().map(|value| value.to_le_bytes()[plane]));
    }
}

fn take_planes(rest: &mut &[u8], count: usize) -> Option<Vec<u64>> {
    let mask = *rest.split_off_first()?;
    let mut column = vec![0; count];
    for plane in (0..8).filter(|plane| mask & (1 << plane) != 0) {
        for (value, byte) in column.iter_mut().zip(rest.split_off(..count)?) {
            *value |= u64::from(*byte) << (8 * plane);
        }
    }
    Some(column)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault() -> impl Strategy<Value = FaultEvent> {
        (any::<[u64; 4]>(), 0..200_u32, any::<[u32; 2]>(), any::<[u16; 2]>(), any::<[u8; 4]>()).prop_map(
            |(
                [time_ns, addr, ip, stack],
                near,
                [far, latency_low],
                [cpu, flags],
                [kind, latency_high @ ..],
            )| {
                FaultEvent {
                    time_ns,
                    addr,
                    ip,
                    // Threads that share a place, and threads that do not.
                    tid: if far % 8 == 0 { far } else { near },
                    latency_low,
                    cpu,
                    flags,
                    kind: FaultKind(kind),
                    latency_high,
                    stack,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_records_come_back(faults in proptest::collection::vec(fault(), 0..300)) {
            let bytes: Vec<u8> = faults.iter().flat_map(FaultEvent::to_bytes).collect();
            let mut columns = Vec::new();
            encode(&bytes, &mut columns);
            let mut rest = &columns[..];

            prop_assert!(are_regular(&bytes));
            prop_assert_eq!(decode(&mut rest, faults.len()), Some(bytes));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn malformed_columns_do_not_panic(bytes: Vec<u8>, count in 0..200_usize) {
            let _outcome = decode(&mut &bytes[..], count);
        }
    }

    #[test]
    fn small_differences_of_either_sign_are_small_numbers() {
        let minus_two = 2_u64.wrapping_neg();

        assert_eq!(zigzag(0), 0);
        assert_eq!(zigzag(2), 4);
        assert_eq!(zigzag(minus_two), 3);
        assert_eq!(unzigzag(3), minus_two);
    }

    #[test]
    fn part_of_a_record_is_not_regular() {
        assert!(!are_regular(&FaultEvent::default().to_bytes()[1..]));
    }

    #[test]
    fn latency_without_room_is_malformed() {
        // One record: each column is a mask of its planes, and the fifth one has the byte of bits 56 to 63.
        let columns = [9, 0, 0, 0, 0, 1 << 7, 1, 0, 0, 0, 0];

        assert_eq!(decode(&mut &columns[..], 1), None);
        let fits = [9, 0, 0, 0, 0, 1 << 6, 1, 0, 0, 0, 0];
        let bytes = decode(&mut &fits[..], 1).expect("one record");
        assert_eq!(FaultEvent::from_bytes(&bytes).map(|fault| fault.latency_bits()), Some(1 << 48));
    }

    #[test]
    fn columns_of_later_builds_are_passed_over_and_missing_ones_are_zero() {
        let fault = FaultEvent { time_ns: 50, addr: 0x1000, stack: 7, ..FaultEvent::default() };
        let mut columns = Vec::new();
        encode(&fault.to_bytes(), &mut columns);

        let mut later = columns.clone();
        later[0] += 1;
        later.extend([0b11, 7, 7]);
        let mut rest = &later[..];
        assert_eq!(decode(&mut rest, 1), Some(fault.to_bytes().to_vec()));
        assert!(rest.is_empty());

        let (stack, earlier) =
            columns.split_last_chunk::<2>().map(|(rest, stack)| (stack, rest.to_vec())).expect("long");
        assert_eq!(*stack, [1, 7]);
        let earlier = [&[8], &earlier[1..]].concat();
        let without = FaultEvent { stack: 0, ..fault };
        assert_eq!(decode(&mut &earlier[..], 1), Some(without.to_bytes().to_vec()));
    }

    #[test]
    fn span_is_the_earliest_and_the_latest_time() {
        let at = |time_ns| FaultEvent { time_ns, ..FaultEvent::default() }.to_bytes();
        let bytes = [at(50), at(40), at(70), at(60)].concat();

        assert_eq!(encode(&bytes, &mut Vec::new()), Some((40, 70)));
        assert_eq!(encode(&[], &mut Vec::new()), None);
    }
}
