//! What becomes of each process: where it came from, what it ran, how it ended, and the most memory that it had.

use std::sync::Arc;

use crate::{
    event::{RssCounters, SpaceId, TaskAction, TaskEvent, Tgid, WaitStatus},
    timeline::PeakRss,
    units::{PageCount, Timestamp},
};

/// What is known of one process.
#[derive(Clone, Debug, Default)]
pub(in crate::pipeline) struct Life {
    /// Its last address space.
    pub(in crate::pipeline) space: Option<SpaceId>,
    pub(in crate::pipeline) parent: Option<Tgid>,
    /// Path of the program that it executed last.
    pub(in crate::pipeline) program: Option<Arc<[u8]>>,
    /// What the kernel maps for a program from now on is of the next one.
    is_loaded: bool,
    pub(in crate::pipeline) died: Option<Timestamp>,
    pub(in crate::pipeline) status: Option<WaitStatus>,
    peak: Peak,
}

/// The most pages that were resident at once in the last address space.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    /// By readings.
    seen: PageCount,
    /// Of the last reading nothing came any more.
    is_final: bool,
    /// In the address spaces before; `None` if unknown.
    before: Option<PageCount>,
    /// In all of them, of a process that ended.
    ever: Option<PageCount>,
}

impl Life {
    /// It was made by `parent`, with a copy of its memory or within it.
    pub(in crate::pipeline) fn born(&mut self, parent: &Self, tgid: Tgid, space: SpaceId) {
        let peak = Peak { before: Some(PageCount::default()), ..Peak::default() };
        let program = parent.program.clone();
        *self = Self {
            space: Some(space),
            parent: Some(tgid),
            program,
            is_loaded: true,
            peak,
            ..Self::default()
        };
    }

    /// It did `task`, with which it ended if `is_end`.
    pub(in crate::pipeline) fn apply(&mut self, task: &TaskEvent, is_end: bool) {
        match task.action {
            TaskAction::Join { space, parent, .. } => {
                self.space = Some(space);
                self.parent = self.parent.or(parent);
            }
            TaskAction::Exec { space, max_rss, .. } => {
                self.space = Some(space);
                if self.is_loaded {
                    // It was hidden, or records are missing.
                    self.program = None;
                }
                self.is_loaded = true;
                self.peak = Peak { before: max_rss, ..Peak::default() };
                // Without the layout of tasks the end of its leader has passed for its own.
                (self.died, self.status) = (None, None);
            }
            TaskAction::Exit { status, max_rss, .. } => {
                // Of two that may have been the last, one sees what the other has still to add.
                self.peak.ever = self.peak.ever.max(max_rss);
                self.status = status.or(self.status);
                if is_end {
                    self.died = Some(task.time);
                }
            }
            _ => {}
        }
    }

    /// The kernel mapped `name` for a program.
    pub(in crate::pipeline) fn loads(&mut self, name: &Arc<[u8]>) {
        // perf has a word behind two slashes where it could not tell.
        let is_path = name.starts_with(b"/") && !name.starts_with(b"//");
        if is_path && (self.is_loaded || self.program.is_none()) {
            self.program = Some(Arc::clone(name));
            self.is_loaded = false;
        }
    }

    /// The counters of its address space were read, `at_exit` when nothing could change them any more.
    pub(in crate::pipeline) fn counted(&mut self, counters: &RssCounters, at_exit: bool) {
        self.peak.seen = self.peak.seen.max(counters.peak);
        self.peak.is_final |= at_exit;
    }

    /// The most pages that were resident at once in the last address space. If there is a `gap` in its records, it may be another one.
    pub(in crate::pipeline) fn peak(&self, gap: bool) -> PeakRss {
        let Peak { seen, is_final, before, ever } = self.peak;
        // The kernel keeps the most of all address spaces: it is that of the last one if there was less before.
        let is_of_last = |ever: &PageCount| before.is_some_and(|before| *ever > before);
        // What it keeps may lack what CPUs or threads have not added up yet, and readings have; or they what is added at the end.
        let exact = match ever {
            Some(ever) if is_of_last(&ever) || ever <= seen => Some(ever.max(seen)),
            _ => is_final.then_some(seen),
        };
        let seen = Some(seen).filter(|seen| seen.get() > 0);
        PeakRss { exact: exact.filter(|_| !gap), seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Comm, Landmarks, Tid};

    fn pages(pages: u64) -> PageCount {
        PageCount::new(pages)
    }

    fn task(action: TaskAction) -> TaskEvent {
        TaskEvent { time: Timestamp::from_nanos(9), tgid: Tgid(7), tid: Tid(7), action }
    }

    fn exec(max_rss: u64) -> TaskEvent {
        task(TaskAction::Exec {
            space: SpaceId(2),
            old_tid: Tid(7),
            comm: Comm::default(),
            is_space_told: true,
            landmarks: Landmarks::default(),
            is_hidden: false,
            total_vm: None,
            max_rss: Some(pages(max_rss)),
        })
    }

    fn exit(max_rss: u64) -> TaskEvent {
        let (status, max_rss) = (Some(WaitStatus(3 << 8)), Some(pages(max_rss)));
        task(TaskAction::Exit { space: SpaceId(2), group_dead: true, account: None, status, max_rss })
    }

    fn reading(peak: u64) -> RssCounters {
        let some = pages(1);
        RssCounters { anon: some, file: some, shmem: some, swap: some, peak: pages(peak) }
    }

    #[test]
    fn most_of_all_programs_is_that_of_the_last_if_it_is_more_than_before() {
        for (at_exit, exact) in [(500, Some(500)), (300, None)] {
            let mut life = Life::default();
            life.apply(&exec(300), false);
            life.counted(&reading(200), false);
            let seen = Some(pages(200));
            assert_eq!(life.peak(false), PeakRss { exact: None, seen }, "it lives");

            life.apply(&exit(at_exit), true);

            assert_eq!(life.peak(false), PeakRss { exact: exact.map(pages), seen });
            assert_eq!(life.peak(true), PeakRss { exact: None, seen }, "an exec may be missing");
            assert_eq!((life.status, life.died), (Some(WaitStatus(3 << 8)), Some(Timestamp::from_nanos(9))));
        }
    }

    #[test]
    fn reading_at_the_exit_and_one_that_is_the_most_ever_are_exact() {
        let mut held = Life::default();
        held.apply(&exec(300), false);
        held.counted(&reading(200), true);
        assert_eq!(held.peak(false).exact, Some(pages(200)));
        held.apply(&exit(310), true);
        assert_eq!(held.peak(false).exact, Some(pages(310)), "threads add up last");

        let mut attached = Life::default();
        attached.counted(&reading(400), false);
        attached.apply(&exit(390), true);
        assert_eq!(attached.peak(false).exact, Some(pages(400)), "the kernel adds up later than it shows");
    }

    #[test]
    fn child_runs_the_program_of_its_parent_until_it_executes_another() {
        let path = |path: &str| Arc::from(path.as_bytes());
        let mut parent = Life::default();
        parent.loads(&path("/bin/sh"));
        parent.loads(&path("/lib/ld.so"));
        parent.apply(&exec(0), false);
        let mut child = Life::default();

        child.born(&parent, Tgid(7), SpaceId(3));
        assert_eq!(child.program, Some(path("/bin/sh")));
        child.apply(&exit(100), true);
        assert_eq!(child.peak(false).exact, Some(pages(100)), "it had no memory before");
        child.loads(&path("/bin/ls"));
        child.loads(&path("/lib/ld.so"));

        assert_eq!((&child.program, child.parent), (&Some(path("/bin/ls")), Some(Tgid(7))));
        child.apply(&exec(0), false);
        child.loads(&path("//toolong"));
        child.apply(&exec(0), false);
        assert_eq!(child.program, None, "nothing was shown of it");
    }
}
