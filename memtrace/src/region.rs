//! The regions of an address space, with an identity that outlives growth, shrinking and new protection.
//!
//! Layer: core. Input: whole readings of `/proc/PID/maps`. Output: [`AddressSpace`].
//! Source: `fs/proc/task_mmu.c` (`show_map_vma`) for names.
//! Keeps: live regions never overlap; a retired region is found until it is purged.
//! Not here: reading maps (`probe`), events that change an address space.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    event::Vma,
    timeline::{Backing, RegionId, RegionLabel},
    units::{Timestamp, VirtAddr, VirtRange},
};

/// Gives every region of a recording a number of its own.
#[derive(Debug, Default)]
pub struct RegionIds {
    given: u64,
}

impl RegionIds {
    fn next(&mut self) -> RegionId {
        self.given += 1;
        RegionId(self.given)
    }
}

/// A mapped stretch of address space with one backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// How rows show it.
    pub label: RegionLabel,
    /// What stays the same as long as it is the same region.
    key: Key,
}

/// What two readings of one region have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// Memory without a file.
    Plain(Backing),
    /// A file, at a fixed distance between address and offset.
    File { device: (u32, u32), inode: u64, distance: u64 },
}

impl Key {
    fn of(vma: &Vma, backing: Backing) -> Self {
        if vma.inode == 0 {
            return Self::Plain(backing);
        }
        let distance = vma.range.start().as_raw().wrapping_sub(vma.offset);
        Self::File { device: vma.device, inode: vma.inode, distance }
    }
}

/// The regions of one address space.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    live: BTreeMap<VirtAddr, Region>,
    retired: Vec<(Timestamp, Region)>,
}

impl AddressSpace {
    /// Makes the regions those of `vmas`, which were read at `at` and are in address order.
    ///
    /// A region goes on if one with the same backing overlaps it; of the parts of a split, the first does.
    pub fn observe(&mut self, at: Timestamp, vmas: &[Vma], ids: &mut RegionIds) {
        let mut before = std::mem::take(&mut self.live);
        for vma in vmas {
            let backing = backing_of(vma);
            let key = Key::of(vma, backing);
            let earlier = take_overlapping(&mut before, vma.range, key);
            let id = earlier.as_ref().map_or_else(|| ids.next(), |region| region.label.id);
            let name = match earlier {
                Some(region) if *region.label.name == vma.name[..] => region.label.name,
                _ => Arc::from(&vma.name[..]),
            };
            let label = RegionLabel { id, range: vma.range, perms: vma.perms, backing, name };
            self.live.insert(vma.range.start(), Region { label, key });
        }
        self.retired.extend(before.into_values().map(|region| (at, region)));
    }

    /// A copy for a forked process: the same regions under new numbers.
    #[must_use]
    pub fn fork(&self, ids: &mut RegionIds) -> Self {
        let copy = |(start, region): (&VirtAddr, &Region)| {
            let mut region = region.clone();
            region.label.id = ids.next();
            (*start, region)
        };
        Self { live: self.live.iter().map(copy).collect(), retired: Vec::new() }
    }

    /// The live region that holds `addr`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<&Region> {
        let (_, region) = self.live.range(..=addr).next_back()?;
        region.label.range.contains(addr).then_some(region)
    }

    /// The region that held `addr` at `time`, as far as readings tell: a live one, else the latest that retired since.
    #[must_use]
    pub fn find_at(&self, addr: VirtAddr, time: Timestamp) -> Option<&Region> {
        let retired = || {
            let mut latest_first = self.retired.iter().rev();
            latest_first.find(|(died, region)| *died >= time && region.label.range.contains(addr))
        };
        self.find(addr).or_else(|| retired().map(|(_, region)| region))
    }

    /// Live regions that overlap `range`, in address order.
    pub fn overlapping(&self, range: VirtRange) -> impl Iterator<Item = &Region> {
        let first = self.live.range(..range.start()).next_back();
        let rest = self.live.range(range.start()..range.end());
        let overlaps = move |region: &&Region| region.label.range.intersection(range).is_some();
        first.into_iter().chain(rest).map(|(_, region)| region).filter(overlaps)
    }

    /// The live regions, in address order.
    pub fn live(&self) -> impl Iterator<Item = &Region> {
        self.live.values()
    }

    /// All regions, live ones in address order, then those that retired and are not purged.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.live.values().chain(self.retired.iter().map(|(_, region)| region))
    }

    /// Forgets regions that retired before `time`.
    pub fn purge(&mut self, time: Timestamp) {
        self.retired.retain(|(died, _)| *died >= time);
    }
}

/// Takes the first region that overlaps `range` and has the same key.
fn take_overlapping(regions: &mut BTreeMap<VirtAddr, Region>, range: VirtRange, key: Key) -> Option<Region> {
    let first = regions.range(..range.start()).next_back();
    let start = first
        .into_iter()
        .chain(regions.range(range.start()..range.end()))
        .find(|(_, region)| region.key == key && region.label.range.intersection(range).is_some())
        .map(|(start, _)| *start)?;
    regions.remove(&start)
}

/// What stands behind a row of maps.
fn backing_of(vma: &Vma) -> Backing {
    let is_shared = vma.perms[3] == b's';
    match vma.name.as_slice() {
        b"" if is_shared => Backing::Shmem,
        b"" => Backing::Anon,
        b"[heap]" => Backing::Heap,
        b"[stack]" => Backing::Stack,
        b"[vdso]" => Backing::Vdso,
        name if name.starts_with(b"[vvar") => Backing::Vvar,
        name if name.starts_with(b"[anon:") => Backing::Anon,
        name if name.starts_with(b"[anon_shmem:") => Backing::Shmem,
        name if name.starts_with(b"[stack:") => Backing::ThreadStack,
        name if name.starts_with(b"/memfd:") => Backing::Memfd,
        name if name.starts_with(b"/SYSV") => Backing::Sysv,
        name if name.starts_with(b"/anon_hugepage") || name.starts_with(b"/dev/hugepages/") => {
            Backing::Hugetlb
        }
        name if name.starts_with(b"/dev/zero") || name.starts_with(b"/dev/shm/") => Backing::Shmem,
        name if name.starts_with(b"/") => Backing::File,
        _ => Backing::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 0x1000;
    const AT: Timestamp = Timestamp::from_nanos(1_000);

    fn range(first: u64, pages: u64) -> VirtRange {
        let addr = |page: u64| VirtAddr::from_raw(page * PAGE);
        VirtRange::new(addr(first), addr(first + pages)).expect("at least a page")
    }

    fn anon(first: u64, pages: u64) -> Vma {
        Vma {
            range: range(first, pages),
            perms: *b"rw-p",
            offset: 0,
            device: (0, 0),
            inode: 0,
            name: Vec::new(),
        }
    }

    fn file(first: u64, pages: u64, offset_pages: u64) -> Vma {
        Vma {
            offset: offset_pages * PAGE,
            device: (8, 1),
            inode: 77,
            name: b"/lib/x.so".to_vec(),
            ..anon(first, pages)
        }
    }

    fn id_at(space: &AddressSpace, page: u64) -> Option<RegionId> {
        space.find(VirtAddr::from_raw(page * PAGE)).map(|region| region.label.id)
    }

    #[test]
    fn region_that_grows_keeps_its_identity() {
        let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
        space.observe(AT, &[anon(16, 4)], &mut ids);
        let id = id_at(&space, 16);

        space.observe(AT, &[anon(14, 8)], &mut ids);

        assert_eq!(id_at(&space, 14), id);
        assert_eq!(id_at(&space, 21), id);
    }

    #[test]
    fn hole_in_the_middle_splits_a_region_and_the_first_part_goes_on() {
        let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
        space.observe(AT, &[anon(16, 8)], &mut ids);
        let id = id_at(&space, 16);

        space.observe(AT, &[anon(16, 2), anon(20, 4)], &mut ids);

        assert_eq!(id_at(&space, 16), id);
        assert_eq!(id_at(&space, 18), None);
        assert_ne!(id_at(&space, 20), id);
    }

    #[test]
    fn file_at_another_distance_is_another_region() {
        let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
        space.observe(AT, &[file(16, 4, 0)], &mut ids);
        let id = id_at(&space, 16);

        space.observe(AT, &[file(16, 4, 2)], &mut ids);

        assert_ne!(id_at(&space, 16), id);
    }

    #[test]
    fn retired_region_is_found_for_the_time_in_which_it_lived() {
        let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
        let addr = VirtAddr::from_raw(16 * PAGE);
        space.observe(AT, &[anon(16, 4)], &mut ids);
        let id = id_at(&space, 16);
        space.observe(Timestamp::from_nanos(2_000), &[], &mut ids);

        let then = space.find_at(addr, Timestamp::from_nanos(1_500)).map(|region| region.label.id);
        assert_eq!(then, id);
        assert_eq!(space.find_at(addr, Timestamp::from_nanos(2_500)), None);

        space.purge(Timestamp::from_nanos(3_000));
        assert_eq!(space.find_at(addr, Timestamp::from_nanos(1_500)), None);
    }

    #[test]
    fn forked_regions_are_others_at_the_same_place() {
        let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
        space.observe(AT, &[anon(16, 4)], &mut ids);

        let child = space.fork(&mut ids);

        assert_ne!(id_at(&child, 16), id_at(&space, 16));
        assert!(id_at(&child, 19).is_some());
    }

    #[test]
    fn names_of_maps_tell_the_backing() {
        let backing = |name: &str, perms: &[u8; 4]| {
            backing_of(&Vma { name: name.as_bytes().to_vec(), perms: *perms, ..anon(1, 1) })
        };

        assert_eq!(backing("", b"rw-p"), Backing::Anon);
        assert_eq!(backing("", b"rw-s"), Backing::Shmem);
        assert_eq!(backing("[anon:glibc: malloc arena]", b"rw-p"), Backing::Anon);
        assert_eq!(backing("[vvar_vclock]", b"r--p"), Backing::Vvar);
        assert_eq!(backing("/SYSV00000000 (deleted)", b"rw-s"), Backing::Sysv);
        assert_eq!(backing("/memfd:jit (deleted)", b"rwxs"), Backing::Memfd);
        assert_eq!(backing("/anon_hugepage (deleted)", b"rw-p"), Backing::Hugetlb);
        assert_eq!(backing("/usr/bin/cat", b"r-xp"), Backing::File);
        assert_eq!(backing("[vsyscall]", b"--xp"), Backing::Other);
    }

    /// What one page is in a reading of maps: nothing, or part of one of three kinds of VMA.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Unmapped,
        Anon,
        FileFromStart,
        FileFromPage9,
    }

    /// VMAs of which the first page may join its neighbour of the same kind or begin a VMA of its own.
    fn vmas_of(pages: &[(Kind, bool)]) -> Vec<Vma> {
        let mut vmas: Vec<Vma> = Vec::new();
        let mut before = Kind::Unmapped;
        for (page, (kind, begins)) in (0..).zip(pages) {
            let vma = match kind {
                Kind::Unmapped => None,
                Kind::Anon => Some(anon(page, 1)),
                Kind::FileFromStart => Some(file(page, 1, page)),
                Kind::FileFromPage9 => Some(file(page, 1, page + 9)),
            };
            match (vma, vmas.last_mut()) {
                (Some(vma), Some(last)) if *kind == before && !begins => {
                    last.range = VirtRange::new(last.range.start(), vma.range.end()).expect("it grows");
                }
                (vma, _) => vmas.extend(vma),
            }
            before = *kind;
        }
        vmas
    }

    /// The rule of identity, page by page: a VMA goes on as the first region of its kind that held one of its pages
    /// and that no VMA before it took.
    fn observe_by_page(
        model: &mut [Option<(Kind, u64)>],
        kinds: &[(Kind, bool)],
        vmas: &[Vma],
        given: &mut u64,
    ) {
        let before = model.to_vec();
        model.fill(None);
        let mut taken = Vec::new();
        for vma in vmas {
            let first = usize::try_from(vma.range.start().as_raw() / PAGE).expect("few pages");
            let end = usize::try_from(vma.range.end().as_raw() / PAGE).expect("few pages");
            let kind = kinds[first].0;
            let held = before[first..end].iter().flatten();
            let id = held
                .filter(|(held, id)| *held == kind && !taken.contains(id))
                .map(|(_, id)| *id)
                .next()
                .unwrap_or_else(|| {
                    *given += 1;
                    *given
                });
            taken.push(id);
            model[first..end].fill(Some((kind, id)));
        }
    }

    fn kinds() -> impl Strategy<Value = Vec<(Kind, bool)>> {
        let kind = prop::sample::select(vec![
            Kind::Unmapped,
            Kind::Anon,
            Kind::Anon,
            Kind::FileFromStart,
            Kind::FileFromPage9,
        ]);
        prop::collection::vec((kind, prop::bool::weighted(0.2)), 12)
    }

    proptest! {
        #[test]
        fn identity_is_that_of_a_model_by_page(readings in prop::collection::vec(kinds(), 1..6)) {
            let (mut space, mut ids) = (AddressSpace::default(), RegionIds::default());
            let (mut model, mut given) = (vec![None; 12], 0);
            for kinds in readings {
                let vmas = vmas_of(&kinds);

                space.observe(AT, &vmas, &mut ids);
                observe_by_page(&mut model, &kinds, &vmas, &mut given);

                let found: Vec<_> = (0..12).map(|page| id_at(&space, page)).collect();
                let expected: Vec<_> = model.iter().map(|page| page.map(|(_, id)| RegionId(id))).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
