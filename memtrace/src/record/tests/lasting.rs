//! Recordings of later builds, and of earlier ones.

use super::{
    super::chunk::{self, ChunkWriter, Head},
    *,
};

#[test]
fn header_that_is_not_understood_names_the_version_that_reads_it() {
    let mut json = serde_json::to_value(header()).expect("a header is JSON");
    json["memtrace_version"] = "9.9".into();
    json["what_is_new"] = 1.into();
    assert_eq!(
        read(&with_header(&json)).expect("new keys are passed over").1.header().memtrace_version,
        "9.9"
    );

    json["capture"]["detail"] = "addresses".into();
    let error = read(&with_header(&json)).expect_err("no such detail is known").to_string();
    assert!(error.ends_with("read it with memtrace 9.9"), "{error}");
}

/// A recording of nothing with the header `json`.
fn with_header(json: &serde_json::Value) -> Vec<u8> {
    let head = Head { kind: chunk::Kind::Header, items: 0, first: START, last: START };
    let plain = serde_json::to_vec(json).expect("JSON");
    let mut chunks =
        ChunkWriter::new([&MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat()).expect("zstd is there");
    chunks.write(head, &plain, 0).expect("a Vec takes everything");
    chunks.into_sink()
}

/// A recording whose only chunk has the items `items`, each a kind and bytes, and no columns.
fn with_items(items: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, item) in items {
        wire::put(&(kind, item.len()), &mut bytes);
        bytes.extend_from_slice(item);
    }
    let len = u32::try_from(bytes.len()).expect("small");
    let plain = [&len.to_le_bytes()[..], &bytes, &[0]].concat();
    let items = u32::try_from(items.len()).expect("few");
    let head = Head { kind: chunk::Kind::Frames, items, first: at(1), last: at(2) };
    let mut chunks =
        ChunkWriter::new(with_header(&serde_json::to_value(header()).expect("JSON"))).expect("zstd is there");
    chunks.write(head, &plain, 0).expect("a Vec takes everything");
    chunks.into_sink()
}

/// The bytes of `frame` in a recording, behind its kind.
fn item(frame: &Frame) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    let kind = wire::encode(frame, &mut bytes);
    (kind as u32, bytes)
}

#[test]
fn item_that_is_not_known_is_one_loss_and_nothing_else_is() {
    let (kind, bytes) = item(&tick(5));
    let unknown_cause = item(&Frame::Loss(Loss {
        start: at(0),
        end: None,
        cpu: None,
        cause: LossCause::CpuOffline,
        count: None,
    }));
    // Start, no end, no CPU, then the cause.
    let mut cause = unknown_cause.1;
    let place = cause.len() - 2;
    cause[place] = 99;
    let recorded =
        with_items(&[(kind, &bytes), (999, b"of a later build"), (unknown_cause.0, &cause), (kind, &bytes)]);

    let (frames, _) = read(&recorded).expect("the header is whole");

    let loss =
        Loss { start: at(1), end: Some(at(2)), cpu: None, cause: LossCause::UnknownKind, count: Some(1) };
    assert_eq!(frames[..4], [tick(5), Frame::Loss(loss), Frame::Loss(loss), tick(5)]);
    assert!(is_gap(&frames[4]), "there is no end mark");
}

#[test]
fn text_that_begins_like_a_recording_is_none() {
    let whole = with_items(&[]);

    assert!(is_recording(&whole) && is_recording(&whole[..8]) && is_recording(&whole[..10]));
    assert!(!is_recording(&whole[..7]));
    // Folded stacks of memtrace itself.
    assert!(!is_recording(b"memtrace;_start;main 7\n"));
}

#[test]
fn numbers_of_faults_beyond_all_columns_are_damage() {
    let counts = [u64::MAX, 1 << 63, u64::from(u32::MAX), 1]
        .map(|count| postcard::to_stdvec(&count).expect("a number"));
    for count in &counts {
        let recorded =
            with_items(&[(wire::Kind::Faults as u32, count), (wire::Kind::Faults as u32, &counts[1])]);

        assert!(read(&recorded).expect("the header is whole").0.iter().all(is_gap), "{count:?}");
    }
}

#[test]
fn item_may_be_longer_than_known_and_one_that_is_cut_is_one_loss() {
    let reading = ReclaimReading { time: at(3), swap_backed: 7, file: 0 };
    let (kind, bytes) = item(&Frame::Reclaim(reading));
    let longer = [&bytes[..], b"more"].concat();

    // The last field is one byte.
    let (frames, _) =
        read(&with_items(&[(kind, &longer), (kind, &bytes[..bytes.len() - 1])])).expect("a header");

    let loss =
        Loss { start: at(1), end: Some(at(2)), cpu: None, cause: LossCause::UnknownKind, count: Some(1) };
    assert_eq!(frames[..2], [Frame::Reclaim(reading), Frame::Loss(loss)]);
}
