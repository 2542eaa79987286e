use super::*;
use crate::export::{WEIGHTS, stacks::tests::feed};

/// The lines with the weight of this name.
fn lines(weight: &str) -> Vec<String> {
    let weight = WEIGHTS.iter().find(|one| one.name == weight).expect("there is such a weight");
    let mut out = Vec::new();
    let options = StackOptions { weight, times: TimeRange::default(), subject: String::new() };
    feed(&mut Folded::new(&options, &mut out));
    String::from_utf8(out).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn each_distinct_stack_is_a_line_with_the_sum_of_its_weights() {
    assert_eq!(
        lines("stall"),
        [
            "prog;[no_unwind_information];main;push;[kernel]_[k] 2",
            "prog;[no_unwind_information];main;push;read_[k] 40",
            "prog;[unknown] 20000",
            "prog;_start;[anon] 7",
            "prog;_start;main;push 2500",
            "prog;_start;main;push;pread64_[k];copy_page_to_iter_[k] 300",
        ]
    );
    assert_eq!(
        lines("faults"),
        [
            "prog;[no_unwind_information];main;push;[kernel]_[k] 1",
            "prog;[no_unwind_information];main;push;read_[k] 1",
            "prog;[unknown] 1",
            "prog;_start;[anon] 1",
            "prog;_start;main;push 3",
            "prog;_start;main;push;pread64_[k];copy_page_to_iter_[k] 1",
        ]
    );
}

#[test]
fn stack_without_a_weight_has_no_line() {
    assert_eq!(lines("bytes"), ["prog;_start;main;push 131072"]);
}

#[test]
fn frames_with_one_name_are_one_frame_and_what_parts_frames_is_in_no_name() {
    let mut tree = Tree::default();
    for (path, weight) in [(["a;b", "c"], 1), (["a:b", "c"], 2), (["a", "b;c"], 4)] {
        let path = path.map(|frame| tree.frame(frame));
        tree.add(&path, weight);
    }
    let mut out = Vec::new();
    tree.write(&mut out).expect("memory takes all");

    assert_eq!(String::from_utf8_lossy(&out), "a;b:c 4\na:b;c 3\n");
}

#[test]
fn sums_stay_at_their_limit() {
    let mut tree = Tree::default();
    let frame = tree.frame("a");
    tree.add(&[frame], u64::MAX);
    tree.add(&[frame], 1);
    let mut out = Vec::new();
    tree.write(&mut out).expect("memory takes all");

    assert_eq!(String::from_utf8_lossy(&out), format!("a {}\n", u64::MAX));
}
