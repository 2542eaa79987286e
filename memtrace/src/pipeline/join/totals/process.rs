//! Sums of one process.

use crate::{
    event::{Account, Comm, FaultCounts, Loss, LossCause},
    pipeline::{
        END_OF_TIME,
        join::{lives::Life, tasks::Tasks},
    },
    timeline::{PageState, ProcessId, ProcessSummary},
    units::{Nanos, Timestamp},
};

/// What is known of one process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) faults: FaultCounts,
    pub(super) uncounted: FaultCounts,
    pub(super) account: Option<Account>,
    /// Its name, once nothing can come of it any more.
    pub(super) comm: Option<Comm>,
    /// Whether its maps were compared while it was held at its exit.
    pub(super) is_verified: bool,
    pub(super) life: Life,
    /// Sum of the known latencies of its faults.
    pub(super) stall: Nanos,
    /// Pages of the regions that went last, all at that time. Of a great many processes few are scanned.
    last: Option<Box<(Timestamp, PageState)>>,
}

impl Process {
    /// A region went at `time`, with pages as last seen; those that go with the process go last, and together.
    pub(super) fn keep(&mut self, time: Timestamp, pages: PageState) {
        match self.last.as_deref_mut() {
            Some((last, _)) if time < *last => {}
            Some((last, sum)) if time == *last => *sum += pages,
            _ => self.last = Some(Box::new((time, pages))),
        }
    }

    /// Adds the account of one of its tasks, if the kernel's counters could be read.
    pub(super) fn settle(&mut self, account: Option<Account>) {
        if let Some(account) = account {
            *self.account.get_or_insert_default() += account;
        }
    }

    /// All that is known of the process `id`, of which `losses` may have taken some; `follows_faults` if there are records of single faults.
    pub(super) fn into_summary(
        self,
        id: ProcessId,
        tasks: &Tasks,
        losses: &[Loss],
        follows_faults: bool,
    ) -> ProcessSummary {
        let Self { faults, uncounted, account, comm, last, is_verified: _, life, stall } = self;
        let end = life.died.unwrap_or(END_OF_TIME);
        let losses = || losses.iter().filter(|loss| loss.touches(id.born, end));
        let lacks_tasks = losses().any(|loss| loss.cause.hides_tasks());
        let lacks_maps = losses().any(|loss| loss.cause == LossCause::SideBand);
        ProcessSummary {
            id,
            comm: comm.unwrap_or_else(|| tasks.name(id)),
            faults,
            uncounted: (account.is_some() || uncounted.total() > 0).then_some(uncounted),
            account,
            pages: last.map(|last| last.1),
            space: life.space,
            parent: life.parent,
            peak: life.peak(lacks_tasks),
            program: life.program.filter(|_| !lacks_tasks && !lacks_maps),
            died: life.died,
            status: life.status,
            stall: follows_faults.then_some(stall),
            lower_bound: losses().next().is_some(),
        }
    }
}
