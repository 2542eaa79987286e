//! Touches memory, gives it back in the ways that there are, and touches it again.
//!
//! Output: a line of [`Comebacks`].
//! Keeps: base pages only; one access per page and round; nothing else happens to the memory.

use std::{collections::BTreeMap, io, process};

use memtrace_tests::{
    ledger::{self, Comeback, Comebacks, Stretch},
    memory::{Mapping, Sharing, page_bytes},
};
use rustix::mm::Advice;

/// Pages of each stretch: all together have no room for a huge one, if the kernel merges them.
const PAGES: usize = 32;

/// How often a stretch is given back.
const ROUNDS: usize = 3;

fn main() -> io::Result<()> {
    let all = PAGES as u64;
    let again = all * ROUNDS as u64;
    let mut stretches = BTreeMap::new();
    let mut held = Vec::new();
    let mut say = |name: &str, memory: Mapping, refaults: &[(&str, u64)], outcomes: &[(&str, u64)]| {
        let counts = |counts: &[(&str, u64)]| counts.iter().map(|(of, n)| ((*of).to_owned(), *n)).collect();
        let area = memory.area(0);
        let stretch = Stretch { start: area.start, end: area.end };
        let comeback = Comeback { stretch, refaults: counts(refaults), outcomes: counts(outcomes) };
        stretches.insert(name.to_owned(), comeback);
        held.push(memory);
    };

    let fresh = Mapping::anonymous(PAGES)?;
    fresh.write_all();
    say("fresh", fresh, &[], &[("anon", all)]);

    let read = Mapping::anonymous(PAGES)?;
    read.read_all();
    read.write_all();
    say("read", read, &[], &[("zero", all), ("write-protect", all)]);

    let advised = Mapping::anonymous(PAGES)?;
    advised.write_all();
    for _ in 0..ROUNDS {
        advised.advise(Advice::LinuxDontNeed)?;
        advised.write_all();
    }
    say("advised", advised, &[("advice", again)], &[("anon", all + again)]);

    let replaced = Mapping::anonymous(PAGES)?;
    replaced.write_all();
    for _ in 0..ROUNDS {
        replaced.renew()?;
        replaced.write_all();
    }
    say("replaced", replaced, &[("unmap", again)], &[("anon", all + again)]);

    let file = tempfile::tempfile()?;
    file.set_len((PAGES * page_bytes()) as u64)?;
    let copied = Mapping::of_file(&file, PAGES, Sharing::Private)?;
    copied.write_all();
    copied.advise(Advice::LinuxDontNeed)?;
    copied.write_all();
    say("copied", copied, &[("advice", all)], &[("copy", 2 * all)]);

    let shared = Mapping::shared(PAGES)?;
    shared.write_all();
    say("shared", shared, &[], &[("file", all)]);

    let mut moved = Mapping::anonymous(PAGES)?;
    moved.write_all();
    moved.relocate()?;
    moved.write_all();
    moved.advise(Advice::LinuxDontNeed)?;
    moved.write_all();
    // The faults before the move were elsewhere.
    say("moved", moved, &[("advice", all)], &[("anon", all)]);

    ledger::print(&Comebacks { pid: process::id(), stretches })
}
