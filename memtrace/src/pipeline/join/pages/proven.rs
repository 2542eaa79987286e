//! Faults whose outcome follows from what their page was; until another one turns out to have been under way at the same page.

use std::collections::BTreeMap;

use super::outcome::FaultId;
use crate::{
    event::{Fault, SpaceId},
    timeline::OutcomeUnknown,
    units::{PageSize, Timestamp, Vpn},
};

/// The last of them at each page, as long as its row is not out, with the time of its completion.
#[derive(Debug, Default)]
pub(super) struct Proven(BTreeMap<(SpaceId, Vpn), (FaultId, Timestamp)>);

impl Proven {
    /// The fault `id` in `space` was completed. Returns the one that was proven to have brought what is there, if this one may have.
    ///
    /// The kernel completes both, and which of them brought the page it does not say.
    pub(super) fn fault(
        &mut self,
        id: FaultId,
        (space, page): (SpaceId, PageSize),
        fault: &Fault,
        has_proof: bool,
    ) -> Option<(FaultId, OutcomeUnknown)> {
        let key = (space, fault.addr.vpn(page));
        let began = fault.latency.map(|latency| fault.time.before(latency));
        let before = self.0.get(&key).filter(|_| !has_proof && fault.protection != Some(true));
        let raced = before.filter(|(_, completed)| began.is_none_or(|began| began <= *completed));
        let raced = raced.map(|(other, _)| *other);
        if has_proof {
            self.0.insert(key, (id, fault.time));
        } else if raced.is_some() {
            self.0.remove(&key);
        }
        raced.map(|other| (other, OutcomeUnknown::Raced))
    }

    /// The rows of faults before `first` are out.
    pub(super) fn forget_before(&mut self, first: FaultId) {
        self.0.retain(|_, (id, _)| *id >= first);
    }
}
