//! Stacks: which number each has, and where its frames lie.
//!
//! Events name stacks by what the programs call them: the hash of their frames, or a number where user space had to find out the
//! rest. Rows name them by a number that frames have which lie at the same places.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{pages::Origin, tasks::Tasks};
use crate::{
    event::{Comm, Mode, SpaceId, Stack, StackEnd, StackFrame, StackId},
    region::AddressSpace,
    timeline::{CodePlace, CodeTotals, FaultRow, FrameRow, ResidentPages, StackTotals, Summary},
    units::{PageCount, Timestamp},
};

/// Stacks that are distinguished; of others it is not known which they are.
const MOST: usize = 1 << 20;

/// What distinguishes stacks: the addresses of their frames, where these lie, and why there are no more.
type Key = (Arc<[StackFrame]>, Arc<[CodePlace]>, StackEnd);

/// The stacks that events have reported.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Stacks {
    /// What an identity means, and since when; `None` once that is not sure.
    by_id: HashMap<StackId, Vec<(Timestamp, Option<u64>)>>,
    /// Identities by the address space in which they mean something.
    of_space: BTreeMap<SpaceId, Identities>,
    numbers: HashMap<Key, u64>,
    /// By number, from 1.
    known: Vec<Known>,
    /// Where their frames lie will be known when the regions of their address spaces have been read.
    waiting: Vec<Stack>,
    /// Completed faults whose stack is not known.
    unknown: CodeTotals,
    /// Memory that stays, by the name of its process and the number of the stack that brought it.
    resident: BTreeMap<(Option<Comm>, u64), PageCount>,
}

/// A stack that has a number.
#[derive(Debug)]
struct Known {
    frames: Arc<[StackFrame]>,
    totals: StackTotals,
}

/// What stacks are called in one address space.
#[derive(Debug, Default)]
struct Identities {
    ids: Vec<StackId>,
    /// How often code had gone when it was last looked which of them still mean something.
    code_changes: u64,
}

/// Where the stack `number` is kept.
fn index(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

impl Stacks {
    /// Notes a stack, and returns rows for its frames if it is new. In an address space of which the regions have to be read it waits
    /// for that.
    pub(in crate::pipeline) fn add(&mut self, stack: Stack, tasks: &Tasks) -> Vec<FrameRow> {
        self.place(stack, tasks, true)
    }

    /// Rows for the frames of new stacks among those that wait, as far as is known by now where these lie.
    pub(in crate::pipeline) fn settle(&mut self, tasks: &Tasks) -> Vec<FrameRow> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().flat_map(|stack| self.place(stack, tasks, false)).collect()
    }

    fn place(&mut self, stack: Stack, tasks: &Tasks, may_wait: bool) -> Vec<FrameRow> {
        let Stack { time, space, id, frames, end } = stack;
        // Where other code was a moment ago, the rules of that may have been followed.
        let regions = tasks.regions(space).filter(|regions| regions.live().next().is_some());
        let is_stale = |frame: &StackFrame| {
            regions.is_some_and(|regions| regions.has_lost_code(frame.instruction(), time))
        };
        if frames.iter().any(is_stale) {
            self.name(id, space, time, None);
            return Vec::new();
        }
        if may_wait && tasks.is_doubtful(space) {
            self.waiting.push(Stack { time, space, id, frames, end });
            return Vec::new();
        }
        let places = frames.iter().map(|frame| tasks.code(space, *frame, time)).collect();
        let key: Key = (frames.into(), places, end);
        if let Some(number) = self.numbers.get(&key) {
            let number = *number;
            self.name(id, space, time, Some(number));
            return Vec::new();
        }
        if self.known.len() >= MOST {
            return Vec::new();
        }
        let number = self.known.len() as u64 + 1;
        self.name(id, space, time, Some(number));
        let (frames, places, _) = &key;
        let totals = CodeTotals::default();
        let totals = StackTotals { stack: number, places: Arc::clone(places), end, totals };
        self.known.push(Known { frames: Arc::clone(frames), totals });
        let mut rows = Vec::with_capacity(frames.len());
        for (depth, (frame, place)) in (0..).zip(frames.iter().zip(places.iter())) {
            let row = FrameRow {
                stack: number,
                depth,
                frame: *frame,
                place: place.clone(),
                function: place.functions.last().cloned().unwrap_or_default(),
                inlined: false,
                end: None,
            };
            let inlined = place.functions.split_last().map_or(&[][..], |(_, inlined)| inlined);
            let inlined = inlined.iter().map(|function| (function.clone(), true));
            rows.extend(inlined.map(|(function, inlined)| FrameRow { function, inlined, ..row.clone() }));
            rows.push(row);
        }
        if let Some(last) = rows.last_mut() {
            last.end = Some(end);
        }
        self.numbers.insert(key, number);
        rows
    }

    /// From `time` on, `id` means the stack `number`.
    fn name(&mut self, id: StackId, space: SpaceId, time: Timestamp, number: Option<u64>) {
        let meanings = self.by_id.entry(id).or_default();
        if meanings.is_empty() {
            self.of_space.entry(space).or_default().ids.push(id);
        }
        if meanings.last().is_none_or(|(_, last)| *last != number) {
            meanings.push((time, number));
        }
    }

    /// The number of a stack that an event at `time` names.
    pub(in crate::pipeline) fn number(&self, id: StackId, time: Timestamp) -> Option<u64> {
        let meanings = self.by_id.get(&id)?;
        // Of a stack of which the first record was lost, a later one says as much.
        let meaning = meanings.iter().rev().find(|(since, _)| *since <= time).or_else(|| meanings.first())?;
        meaning.1
    }

    /// Where the innermost frame of the stack `number` lies.
    pub(in crate::pipeline) fn innermost(&self, number: u64) -> Option<&CodePlace> {
        self.known.get(index(number)?)?.totals.places.first()
    }

    /// Something changed in `space` at `time`. Stacks with code that went mean nothing from now on, until they are reported again.
    pub(in crate::pipeline) fn changed(&mut self, space: SpaceId, time: Timestamp, tasks: &Tasks) {
        let Some(ids) = self.of_space.get_mut(&space) else { return };
        let changes = tasks.regions(space).map_or(0, AddressSpace::code_changes);
        if std::mem::replace(&mut ids.code_changes, changes) == changes {
            return;
        }
        for id in &ids.ids {
            let Some(meanings) = self.by_id.get_mut(id) else { continue };
            let Some((_, Some(number))) = meanings.last() else { continue };
            let Some(known) = index(*number).and_then(|index| self.known.get(index)) else { continue };
            let is_there = |(frame, place): (&StackFrame, &CodePlace)| {
                let regions = tasks.regions(space);
                let is_mapped = regions.is_some_and(|regions| regions.find(frame.instruction()).is_some());
                is_mapped && tasks.code(space, *frame, time) == *place
            };
            if !known.frames.iter().zip(known.totals.places.iter()).all(is_there) {
                meanings.push((time, None));
            }
        }
    }

    /// Gives the row of a fault the number of its stack, and in user mode the function that this begins with; counts it.
    pub(in crate::pipeline) fn count(&mut self, row: &mut FaultRow) {
        let fault = &row.fault;
        row.stack = fault.stack.and_then(|id| self.number(id, fault.time));
        if fault.mode == Mode::User {
            let place = row.stack.and_then(|stack| self.innermost(stack));
            row.function = place.and_then(CodePlace::function).cloned();
        }
        if !fault.kind.is_completed() {
            return;
        }
        let known = row.stack.and_then(index).and_then(|index| self.known.get_mut(index));
        let totals = known.map(|known| &mut known.totals.totals);
        totals.unwrap_or(&mut self.unknown).add(fault);
    }

    /// Pages that `origin` brought to a process of this name are there still, at the end of that or of the recording.
    pub(in crate::pipeline) fn add_resident(
        &mut self,
        process: Option<Comm>,
        origin: Origin,
        pages: PageCount,
    ) {
        if let Some(number) = origin.times().into_iter().find_map(|time| self.number(origin.stack, time)) {
            *self.resident.entry((process, number)).or_default() += pages;
        }
    }

    /// Forgets what identities meant in an address space that is no more.
    pub(in crate::pipeline) fn forget(&mut self, space: SpaceId) {
        for id in self.of_space.remove(&space).into_iter().flat_map(|one| one.ids) {
            self.by_id.remove(&id);
        }
    }

    /// Adds what is known of stacks to a summary.
    pub(in crate::pipeline) fn summary(self, summary: Summary) -> Summary {
        let had_faults = |stack: &StackTotals| stack.totals != CodeTotals::default();
        let stacks = self.known.into_iter().map(|known| known.totals).filter(had_faults).collect();
        let resident = self.resident.into_iter();
        let resident = resident.map(|((process, stack), pages)| ResidentPages { process, stack, pages });
        Summary { stacks, without_stack: self.unknown, resident: resident.collect(), ..summary }
    }
}
