//! Which properties of pages are known on one host, and the one word for all of them.

use crate::{
    event::{HostFacts, PageScan},
    pagemap::{Release, StateRun},
    timeline::{Known, PageKind, PropertySet},
    units::VirtRange,
};

/// How pages are distinguished on one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting {
    has_ksm_flag: bool,
}

impl Counting {
    pub(super) fn new(host: &HostFacts) -> Self {
        // There every anonymous page has that flag: `stable_page_flags` takes one bit of two for the kind of the mapping.
        let has_wrong_flag = Release::new(6, 10)..Release::new(6, 18);
        Self { has_ksm_flag: !has_wrong_flag.contains(&Release::parse(&host.kernel_release)) }
    }

    /// Which properties `scan` knows.
    pub(super) fn known_from(self, scan: &PageScan) -> PropertySet {
        let Self { has_ksm_flag } = self;
        PropertySet::known(&Known { categories: scan.known, depth: scan.depth, has_ksm_flag })
    }
}

/// The pages that `scan` saw in `part`, in stretches with the same properties.
pub(super) fn stretches(scan: &PageScan, part: VirtRange) -> Vec<(VirtRange, PropertySet)> {
    let mut stretches: Vec<(VirtRange, PropertySet)> = Vec::new();
    let first = scan.runs.partition_point(|run| run.range.end() <= part.start());
    for run in &scan.runs[first..] {
        let Some(range) = run.range.intersection(part) else { break };
        let here = PropertySet::of(run);
        let last = stretches.last_mut().filter(|(last, there)| last.end() == range.start() && *there == here);
        match last.and_then(|(last, _)| Some((VirtRange::new(last.start(), range.end())?, last))) {
            Some((both, last)) => *last = both,
            None => stretches.push((range, here)),
        }
    }
    stretches
}

/// The one word for the state of the pages of `run`, where these properties are known.
pub(super) fn kind_of(run: &StateRun, known: PropertySet) -> PageKind {
    let here = PropertySet::of(run);
    let of_large = if known.contains(PropertySet::HUGE) { PageKind::Mthp } else { PageKind::Thp };
    // Where that is not known of a page, neither is what a flag would say.
    let of_others = if known.contains(PropertySet::HUGETLB) { PageKind::Small } else { PageKind::Present };
    let words = [
        (PropertySet::SWAPPED, PageKind::Swapped),
        (PropertySet::ZERO, PageKind::Zero),
        (PropertySet::HUGETLB, PageKind::Hugetlb),
        (PropertySet::HUGE, PageKind::Huge),
        (PropertySet::KSM & known, PageKind::Ksm),
        (PropertySet::MTHP, of_large),
        (PropertySet::PRESENT, of_others),
    ];
    let word = words.into_iter().find(|(property, _)| here.intersects(*property));
    word.map_or(PageKind::Guard, |(_, word)| word)
}
