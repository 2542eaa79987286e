use std::io::Read as _;

use flate2::read::GzDecoder;

use super::{
    message::{Line, Location, Mapping},
    stretches::FILE_BYTES,
    *,
};
use crate::export::{STALL, stacks::tests::feed};

/// The profile of the story.
fn profile() -> Profile {
    let mut out = Vec::new();
    let options =
        StackOptions { weight: STALL, times: TimeRange::default(), subject: "prog --fast".to_owned() };
    feed(&mut Pprof::new(options, &mut out));
    let mut bytes = Vec::new();
    GzDecoder::new(&out[..]).read_to_end(&mut bytes).expect("gzip");
    Profile::decode(&bytes[..]).expect("a profile")
}

fn text(profile: &Profile, index: i64) -> &str {
    &profile.string_table[usize::try_from(index).expect("a number")]
}

fn location(profile: &Profile, id: u64) -> &Location {
    profile.location.iter().find(|location| location.id == id).expect("it is in the table")
}

/// Names of the functions of a sample, innermost first.
fn functions<'a>(profile: &'a Profile, sample: &Sample) -> Vec<&'a str> {
    let lines = sample.location_id.iter().flat_map(|id| &location(profile, *id).line);
    let name = |line: &Line| {
        let function = profile.function.iter().find(|function| function.id == line.function_id);
        text(profile, function.expect("it is in the table").name)
    };
    lines.map(name).collect()
}

fn labels<'a>(profile: &'a Profile, sample: &Sample) -> Vec<(&'a str, &'a str)> {
    sample.label.iter().map(|label| (text(profile, label.key), text(profile, label.str))).collect()
}

#[test]
fn samples_have_all_weights_and_what_the_faults_have_in_common() {
    let profile = profile();

    let types = profile.sample_type.iter();
    let types: Vec<_> = types.map(|one| (text(&profile, one.r#type), text(&profile, one.unit))).collect();
    assert_eq!(
        types,
        [("faults", "count"), ("stall", "nanoseconds"), ("bytes", "bytes"), ("resident", "bytes")]
    );
    assert_eq!(text(&profile, profile.default_sample_type), "stall");
    let mut samples: Vec<_> =
        profile.sample.iter().map(|sample| (&sample.value[..], functions(&profile, sample))).collect();
    samples.sort_by_key(|(values, _)| values[1]);
    let user = ["push", "main", "_start"];
    let expected: [(&[i64], &[&str]); 7] = [
        (&[1, 2, 0, 0], &["[kernel]_[k]", "push", "main", "[no_unwind_information]"]),
        (&[1, 7, 0, 0], &["[anon]", "_start"]),
        (&[1, 40, 0, 0], &["read_[k]", "push", "main", "[no_unwind_information]"]),
        (&[1, 300, 0, 0], &["copy_page_to_iter_[k]", "pread64_[k]", "push", "main", "_start"]),
        (&[1, 500, 0, 0], &user),
        (&[2, 2_000, 32 * 4096, 0], &user),
        (&[1, 20_000, 0, 0], &["[unknown]"]),
    ];
    assert_eq!(samples, expected.map(|(values, functions)| (values, functions.to_vec())));
    let of_stall = |stall| {
        let sample = profile.sample.iter().find(|sample| sample.value[1] == stall);
        labels(&profile, sample.expect("a sample"))
    };
    assert_eq!(of_stall(500), [("process", "prog"), ("thread", "worker"), ("mode", "user")]);
    let in_call = [("process", "prog"), ("thread", "prog"), ("syscall", "pread64"), ("mode", "kernel")];
    assert_eq!(of_stall(300), in_call);
}

#[test]
fn places_are_in_the_executable_part_of_their_file() {
    let profile = profile();

    let [file, kernel] = &profile.mapping[..] else { panic!("{:#?}", profile.mapping) };
    let Mapping { id, memory_start, memory_limit, file_offset, filename, build_id, .. } = *file;
    assert_eq!((text(&profile, filename), text(&profile, build_id)), ("/bin/prog", "abcd"));
    let addresses = (memory_start, memory_limit, file_offset);
    assert_eq!(addresses, (FILE_BYTES + 0x1000, FILE_BYTES + 0x1_1000, 0x1000));
    // The source of `_start` is not known.
    assert_eq!((file.has_functions, file.has_filenames), (true, false));
    assert_eq!((file.has_line_numbers, file.has_inline_frames), (false, true));
    assert_eq!((text(&profile, kernel.filename), kernel.has_functions), ("[kernel]", true));
    let places = profile.location.iter().filter(|location| location.mapping_id == id);
    let places: Vec<_> = places.map(|place| (place.address, place.line.len())).collect();
    assert_eq!(places, [(FILE_BYTES + 0x1010, 2), (FILE_BYTES + 0x10ff, 1)]);
    let inlined = &profile.location[0].line;
    assert_eq!(inlined.iter().map(|line| line.line).collect::<Vec<_>>(), [12, 5]);
    let sources = inlined
        .iter()
        .map(|line| profile.function[usize::try_from(line.function_id - 1).expect("a number")].filename);
    assert_eq!(
        sources.map(|source| text(&profile, source)).collect::<Vec<_>>(),
        ["/src/vec.rs", "/src/main.rs"]
    );
}

#[test]
fn numbers_are_unique_and_the_first_string_is_empty() {
    let profile = profile();

    assert_eq!(profile.string_table[0], "");
    let ids: Vec<_> = profile.location.iter().map(|location| location.id).collect();
    assert_eq!(ids, (1..=profile.location.len() as u64).collect::<Vec<_>>());
    let ids: Vec<_> = profile.function.iter().map(|function| function.id).collect();
    assert_eq!(ids, (1..=profile.function.len() as u64).collect::<Vec<_>>());
}

#[test]
fn profile_says_when_and_of_what_it_is() {
    let profile = profile();

    // The clock of the sample machine was 5 ns behind at its start, which is 0; a time before 1970 is none.
    assert_eq!((profile.time_nanos, profile.duration_nanos), (0, 18_000_000));
    assert_eq!(profile.comment.iter().map(|line| text(&profile, *line)).collect::<Vec<_>>(), ["prog --fast"]);
}
