//! Consoles as guests write them.

use super::*;

const WHOLE: &str = "SeaBIOS\r
Booting from ROM..\r
\r
memtrace-vm: begin 2.26\r
\r
memtrace-vm: doctor\r
{\r
  \"kernel_release\": \"6.1.0-50-amd64\",\r
  \"features\": {}\r
}\r
\r
memtrace-vm: target kernel\r
\r
running 3 tests\r
test a ... ok\r
test b ... FAILED\r
test c ... ok\r
\r
failures:\r
\r
---- b stdout ----\r
\r
thread 'b' (119) panicked at tests/kernel.rs:26:18:\r
left is not right\r
\r
\r
failures:\r
    b\r
\r
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.19s\r
\r
\r
memtrace-vm: exit 101\r
\r
memtrace-vm: target kernel_b\r
\r
running 1 test\r
test d ... ok\r
\r
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\r
\r
\r
memtrace-vm: exit 0\r
\r
memtrace-vm: skips\r
c\tneeds gcc: apt-get install gcc\r
\r
memtrace-vm: verified\r
task_new 812\r
fault 1044\r
\r
memtrace-vm: end 389.98\r
";

#[test]
fn console_of_a_whole_run_tells_all() {
    let report = Report::parse(WHOLE);

    assert_eq!((report.begin, report.end), (Some(2.26), Some(389.98)));
    assert_eq!(report.fact("kernel_release"), Some("6.1.0-50-amd64"));
    assert_eq!(report.skips, skips::parse("c\tneeds gcc: apt-get install gcc"));
    assert_eq!(report.verified, [("task_new".to_owned(), 812), ("fault".to_owned(), 1044)]);
    assert_eq!(report.problems(), ["kernel: b: left is not right"]);
}

#[test]
fn skipped_tests_are_not_counted_as_passed() {
    assert_eq!(Report::parse(WHOLE).counts(), [2, 0, 1, 1]);
}

/// The console of a second run of the target of `b` in [`WHOLE`] that ended so.
fn again(result: &str) -> Report {
    Report::parse(&format!(
        "\nmemtrace-vm: target kernel\n\nrunning 3 tests\n{result}\n\nmemtrace-vm: exit 0\n\nmemtrace-vm: end 3.0\n"
    ))
}

#[test]
fn test_that_passes_when_run_again_is_flaky_and_no_problem() {
    let mut report = Report::parse(WHOLE);
    assert_eq!(report.failed().collect::<Vec<_>>(), ["kernel"]);

    report.add_rerun(&again("test b ... ok\n\ntest result: ok. 3 passed; 0 failed; 0 ignored"));

    assert_eq!(report.counts(), [3, 1, 0, 1]);
    assert!(report.problems().is_empty());
    let flaky: Vec<_> = report.flaky().map(|(target, test)| (target, test.line())).collect();
    assert_eq!(flaky, [("kernel", "b: left is not right".to_owned())]);
}

#[test]
fn test_that_does_not_run_again_has_failed() {
    for result in ["", "test result: ok. 0 passed; 0 failed; 0 ignored"] {
        let mut report = Report::parse(WHOLE);

        report.add_rerun(&again(result));

        assert_eq!(report.problems(), ["kernel: b: left is not right"], "{result}");
    }
}

#[test]
fn test_that_is_skipped_the_second_time_has_failed() {
    let mut report = Report::parse(WHOLE);
    let mut second = again("test result: ok. 3 passed; 0 failed; 0 ignored");
    second.skips = skips::parse("b\tneeds time");

    report.add_rerun(&second);

    assert_eq!(report.counts(), [2, 0, 1, 1]);
}

#[test]
fn test_that_fails_again_has_failed() {
    let mut report = Report::parse(WHOLE);

    report.add_rerun(&Report::parse(WHOLE));

    assert_eq!(report.counts(), [2, 0, 1, 1]);
    assert_eq!(report.problems(), ["kernel: b: left is not right"]);
}

#[test]
fn executable_that_was_killed_is_a_problem() {
    let console = "\nmemtrace-vm: target kernel\ntest a ... ok\ntest b ... \nmemtrace-vm: exit 137\n\nmemtrace-vm: end 9.5\n";

    assert_eq!(Report::parse(console).problems(), ["kernel: ended with 137"]);
}

#[test]
fn executable_that_ends_well_without_a_summary_is_a_problem() {
    let console = "\nmemtrace-vm: target kernel\n\nmemtrace-vm: exit 0\n\nmemtrace-vm: end 9.5\n";

    assert_eq!(Report::parse(console).problems(), ["kernel: ended with 0"]);
}

#[test]
fn executable_that_crashes_after_its_summary_is_a_problem() {
    let console = "\nmemtrace-vm: target kernel\ntest result: ok. 1 passed; 0 failed; 0 ignored\n\n\
                   memtrace-vm: exit 139\n\nmemtrace-vm: end 9.5\n";

    assert_eq!(Report::parse(console).problems(), ["kernel: ended with 139"]);
}

#[test]
fn run_that_breaks_off_is_a_problem_of_the_test_it_was_in() {
    let console = "\nmemtrace-vm: begin 2.0\n\nmemtrace-vm: target kernel\ntest a ... ok\n[9.1] Kernel panic - not syncing: oops\n";

    assert_eq!(
        Report::parse(console).problems(),
        ["kernel: printed no result", "Kernel panic - not syncing: oops", "the run ended in kernel"]
    );
    assert_eq!(Report::parse("SeaBIOS\n").problems(), ["the run ended before the first test"]);
}
