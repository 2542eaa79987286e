//! Who shares with whom, in text.

use super::*;

fn lines(sharing: Vec<(Sharers, PageCount)>) -> Vec<String> {
    let mut snapshot = two();
    let Subject::Processes { sharing: sets, .. } = &mut snapshot.subject else { panic!("processes") };
    *sets = Some(sharing);
    let text = snapshot.to_text(Style { is_rolled_up: true, ..Style::default() }).to_string();
    text.lines().filter(|line| line.starts_with("shared:")).map(str::to_owned).collect()
}

fn set(processes: &[u32], has_others: bool, pages: u64) -> (Sharers, PageCount) {
    (Sharers { processes: processes.to_vec(), has_others }, PageCount::new(pages))
}

#[test]
fn sets_have_their_processes_and_others() {
    let lines = lines(vec![set(&[0, 1], false, 1000), set(&[1], true, 1)]);

    assert_eq!(lines, ["shared:       4000 kB by 42, 43", "shared:          4 kB by 43 and others"]);
}

#[test]
fn sets_after_the_twentieth_are_summed() {
    let lines = lines((1..=23).rev().map(|pages| set(&[0, 1], false, pages)).collect());

    // 3, 2 and 1 pages are left.
    assert_eq!(lines.len(), 21);
    assert_eq!(lines[19], "shared:         16 kB by 42, 43");
    assert_eq!(lines[20], "shared:         24 kB by 3 other sets of processes");
}

#[test]
fn one_process_shares_with_nobody_that_is_known() {
    let mut snapshot = one();
    let Subject::Processes { sharing, .. } = &mut snapshot.subject else { panic!("a process") };
    *sharing = Some(vec![set(&[0], true, 5)]);

    let text = snapshot.to_text(Style::default()).to_string();
    assert!(!text.contains("shared:"), "{text}");
}
