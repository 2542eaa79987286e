//! Words as kernels of each era write them, by hand from the kernel's definitions.

use super::*;
use crate::units::Pfn;

/// As distributions configure kernels since Linux 5.19: the first type above the areas is 23.
const DISTRIBUTION: SwapLayout = SwapLayout::new(1, 3, 4, 1).expect("nine types");
/// Without memory failures and devices: the first type above the areas is 28.
const SMALL: SwapLayout = SwapLayout::new(0, 3, 0, 1).expect("four types");
/// Before Linux 5.14: no markers, two types for migration, two for devices.
const OLD: SwapLayout = SwapLayout::new(1, 2, 2, 0).expect("five types");

const fn pfn(raw: u64) -> Option<Pfn> {
    Pfn::new(raw)
}

fn at(era: PagemapEra, word: u64) -> (EntryFlags, Residence, Option<u8>, u64) {
    let entry = PagemapEntry::from_raw(word);
    (
        entry.flags(era),
        entry.residence(era, Some(DISTRIBUTION)),
        entry.page_shift(era),
        entry.unknown_bits(era),
    )
}

#[test]
fn word_of_a_written_anonymous_page_in_each_era() {
    use PagemapEra as Era;
    let present = EntryFlags::PRESENT;
    let residence = Residence::Present(pfn(0x1234));
    // 4 KiB is a shift of 12: bits 57 and 58.
    let shifted = 0x8600_0000_0000_1234;
    let soft_dirty = 0x8080_0000_0000_1234;
    let exclusive = 0x8180_0000_0000_1234;
    let rows = [
        (Era::V2_6_25, shifted, present, Some(12)),
        (Era::V3_5, shifted, present, Some(12)),
        (Era::V3_11, soft_dirty, present | EntryFlags::SOFT_DIRTY, None),
        (Era::V4_0, soft_dirty, present | EntryFlags::SOFT_DIRTY, None),
        (Era::V4_2, exclusive, present | EntryFlags::SOFT_DIRTY | EntryFlags::EXCLUSIVE, None),
        (Era::V5_14, exclusive, present | EntryFlags::SOFT_DIRTY | EntryFlags::EXCLUSIVE, None),
        (Era::V6_15, exclusive, present | EntryFlags::SOFT_DIRTY | EntryFlags::EXCLUSIVE, None),
    ];

    for (era, word, flags, shift) in rows {
        assert_eq!(at(era, word), (flags, residence, shift, 0), "{era:?}");
    }
    assert_eq!(rows.map(|(era, ..)| era), Era::ALL);
}

#[test]
fn word_of_a_huge_page_had_its_size_once() {
    // A shift of 21.
    let word = 0x8a80_0000_0000_0200;

    assert_eq!(PagemapEntry::from_raw(word).page_shift(PagemapEra::V3_5), Some(21));
    assert_eq!(PagemapEntry::from_raw(word).page_shift(PagemapEra::V4_2), None);
}

#[test]
fn bit_came_with_its_era_and_was_unknown_before() {
    let rows = [
        (61, PagemapEra::V2_6_25, PagemapEra::V3_5, EntryFlags::FILE),
        (55, PagemapEra::V3_5, PagemapEra::V3_11, EntryFlags::SOFT_DIRTY),
        (56, PagemapEra::V4_0, PagemapEra::V4_2, EntryFlags::EXCLUSIVE),
        (57, PagemapEra::V4_2, PagemapEra::V5_14, EntryFlags::UFFD_WP),
        (58, PagemapEra::V5_14, PagemapEra::V6_15, EntryFlags::GUARD),
    ];

    for (bit, before, since, flag) in rows {
        let entry = PagemapEntry::from_raw(1 << 63 | 1 << bit);
        assert_eq!(entry.flags(before), EntryFlags::PRESENT, "bit {bit} in {before:?}");
        assert_eq!(entry.flags(since), EntryFlags::PRESENT | flag, "bit {bit} in {since:?}");
        let unknown = if before.has_page_shift() && bit != 61 { 0 } else { 1 << bit };
        assert_eq!(entry.unknown_bits(before), unknown, "bit {bit} in {before:?}");
        assert_eq!(entry.unknown_bits(since), 0, "bit {bit} in {since:?}");
    }
}

#[test]
fn bits_of_a_newer_kernel_are_kept() {
    let entry = PagemapEntry::from_raw(1 << 63 | 1 << 60 | 1 << 59 | 7);

    assert_eq!(entry.unknown_bits(PagemapEra::V6_15), 1 << 60 | 1 << 59);
    assert_eq!(entry.flags(PagemapEra::V6_15), EntryFlags::PRESENT);
    assert_eq!(entry.as_raw(), 0x9800_0000_0000_0007);
}

#[test]
fn residence_of_words_that_linux_6_18_wrote() {
    let swap = |kind, offset| Residence::NotPresent(NotPresent::Swap(SwapSlot { kind, offset }));
    let marker = |marker| Residence::NotPresent(NotPresent::Marker(marker));
    let rows = [
        (0, Residence::Absent),
        // Present and exclusive, to a reader with and without rights.
        (0x8100_0000_0012_3456, Residence::Present(pfn(0x12_3456))),
        (0x8100_0000_0000_0000, Residence::Present(None)),
        // The huge zero page has the bit of files.
        (0xa000_0000_0000_4600, Residence::Present(pfn(0x4600))),
        // Offset 0x10 of area 1, and the same to a reader without rights.
        (0x4000_0000_0000_0201, swap(1, 0x10)),
        (0x4000_0000_0000_0000, Residence::NotPresent(NotPresent::Hidden)),
        // In swap, and write-protected by userfaultfd there.
        (0x4200_0000_0000_0201, swap(1, 0x10)),
        (0x4400_0000_0000_009f, marker(Marker::GUARD)),
        (0x4400_0000_0000_0000, marker(Marker::GUARD)),
        (0x4200_0000_0000_003f, marker(Marker::UFFD_WP)),
        (0x4000_0000_0000_005f, marker(Marker::POISONED)),
        (0x4000_0000_0000_01ff, marker(Marker::from_bits_retain(0xf))),
    ];

    for (word, residence) in rows {
        assert_eq!(at(PagemapEra::V6_15, word).1, residence, "{word:#x}");
    }
}

#[test]
fn types_above_the_areas_depend_on_the_kernel() {
    let swap = |kind| NotPresent::Swap(SwapSlot { kind, offset: 9 });
    let (damaged, moving, device) =
        (NotPresent::HwPoison(pfn(9)), NotPresent::Migration(pfn(9)), NotPresent::Device(pfn(9)));
    let marker = NotPresent::Marker(Marker::from_bits_retain(9));
    let rows = [
        (
            DISTRIBUTION,
            23,
            [
                (22, swap(22)),
                (23, damaged),
                (24, moving),
                (26, moving),
                (27, device),
                (30, device),
                (31, marker),
            ],
        ),
        (
            SMALL,
            28,
            [
                (0, swap(0)),
                (23, swap(23)),
                (27, swap(27)),
                (28, moving),
                (29, moving),
                (30, moving),
                (31, marker),
            ],
        ),
        (
            OLD,
            27,
            [
                (0, swap(0)),
                (26, swap(26)),
                (27, damaged),
                (28, moving),
                (29, moving),
                (30, device),
                (31, device),
            ],
        ),
    ];

    for (layout, areas, types) in rows {
        assert_eq!(layout.areas(), areas);
        for (kind, expected) in types {
            let word = PagemapEntry::from_raw(1 << 62 | 9 << 5 | kind);
            assert_eq!(
                word.residence(PagemapEra::V6_15, Some(layout)),
                Residence::NotPresent(expected),
                "type {kind}"
            );
        }
    }
    assert_eq!(SwapLayout::new(1, 3, 27, 1), None, "32 types, and no area");
}

#[test]
fn error_of_swap_was_a_type_above_markers() {
    // Linux 6.1 as distributions configure it.
    let layout = SwapLayout::new(1, 3, 4, 2).expect("ten types");
    let residence = |kind: u64, offset: u64| {
        PagemapEntry::from_raw(1 << 62 | offset << 5 | kind).residence(PagemapEra::V5_14, Some(layout))
    };

    assert_eq!(layout.areas(), 22);
    assert_eq!(residence(22, 9), Residence::NotPresent(NotPresent::HwPoison(pfn(9))));
    assert_eq!(residence(29, 9), Residence::NotPresent(NotPresent::Device(pfn(9))));
    assert_eq!(residence(30, 1), Residence::NotPresent(NotPresent::Marker(Marker::UFFD_WP)));
    assert_eq!(residence(31, 0x1234), Residence::NotPresent(NotPresent::Marker(Marker::POISONED)));
}

#[test]
fn era_shows_in_a_page_that_was_just_written() {
    let era = |word, shift| PagemapEra::of_written_page(PagemapEntry::from_raw(word), shift);

    assert_eq!(era(0x8600_0000_0000_1234, 12), Some(PagemapEra::V3_5));
    assert_eq!(era(0x8800_0000_0000_1234, 16), Some(PagemapEra::V3_5), "64 KiB");
    assert_eq!(era(0x8080_0000_0000_1234, 12), Some(PagemapEra::V3_11));
    assert_eq!(era(0x8180_0000_0000_1234, 12), Some(PagemapEra::V4_2));
    assert_eq!(era(0x8100_0000_0000_0000, 12), Some(PagemapEra::V4_2), "without rights, without soft-dirty");
    assert_eq!(era(0, 12), None, "not written");
    assert_eq!(era(0xa100_0000_0000_1234, 12), None, "not private");
}

#[test]
fn flags_have_the_bits_and_letters_of_the_kernel() {
    // The first and last of each group of linux/kernel-page-flags.h, and those that changed.
    for (flag, bit, name) in [
        (PageFlags::LOCKED, 0, "locked"),
        (PageFlags::BUDDY, 10, "buddy"),
        (PageFlags::MMAP, 11, "mmap"),
        (PageFlags::NOPAGE, 20, "nopage"),
        (PageFlags::KSM, 21, "ksm"),
        (PageFlags::THP, 22, "thp"),
        (PageFlags::OFFLINE, 23, "offline"),
        (PageFlags::PGTABLE, 26, "pgtable"),
        (PageFlags::RESERVED, 32, "reserved"),
        (PageFlags::ARCH_3, 42, "arch_3"),
        (PageFlags::ANON_EXCLUSIVE, 47, "anon_exclusive"),
        (PageFlags::MMAP_EXCLUSIVE, 63, "mmap_exclusive"),
    ] {
        assert_eq!(flag.bits(), 1 << bit);
        assert_eq!(flag.names(FlagsEra::V6_10).collect::<Vec<_>>(), [name]);
    }
    assert_eq!(PageFlags::OWNER_2.names(FlagsEra::V6_10).collect::<Vec<_>>(), ["mappedtodisk"]);
    assert_eq!(PageFlags::OWNER_2.names(FlagsEra::V6_12).collect::<Vec<_>>(), ["owner_2"]);
    assert_eq!(PageFlags::OFFLINE.names(FlagsEra::V2_6_25).collect::<Vec<_>>(), ["balloon"]);
    let anonymous = PageFlags::from_bits_retain(0x5828);
    assert!(anonymous.letters().starts_with("___U_l_____Ma_b___"), "as page-types: {}", anonymous.letters());
}

#[test]
fn bits_without_a_name_are_kept_and_told() {
    let flags = PageFlags::from_bits_retain(1 << 5 | 1 << 44 | 1 << 60);

    assert_eq!(flags.unknown().bits(), 1 << 44 | 1 << 60);
    assert_eq!(flags.names(FlagsEra::V6_10).collect::<Vec<_>>(), ["lru"]);
}

#[test]
fn page_of_the_kernel_is_nobodys() {
    // As seen: a slab whose `mapping` was in other use, a page table with an aged bit.
    let slab = PageFlags::SLAB | PageFlags::ANON | PageFlags::KSM | PageFlags::COMPOUND_TAIL;
    let table = PageFlags::PGTABLE | PageFlags::REFERENCED | PageFlags::MMAP;
    let anonymous = PageFlags::ANON | PageFlags::MMAP | PageFlags::LRU;

    assert_eq!(slab.sanitised(), PageFlags::SLAB | PageFlags::COMPOUND_TAIL);
    assert_eq!(table.sanitised(), PageFlags::PGTABLE);
    assert_eq!(anonymous.sanitised(), anonymous);
}

#[test]
fn overloaded_bits_are_distinguished_as_page_types_does() {
    let none = PagemapEntry::default();
    let expanded = |flags: PageFlags, era| flags.expanded(era, none);
    let anon = PageFlags::ANON | PageFlags::OWNER_2;

    assert_eq!(expanded(anon, FlagsEra::V6_10), PageFlags::ANON | PageFlags::ANON_EXCLUSIVE);
    assert_eq!(expanded(anon, FlagsEra::V5_1), anon);
    assert_eq!(
        expanded(PageFlags::SLAB | PageFlags::ACTIVE | PageFlags::ERROR, FlagsEra::V5_1),
        PageFlags::SLAB | PageFlags::SLUB_FROZEN | PageFlags::SLUB_DEBUG
    );
    assert_eq!(expanded(PageFlags::RECLAIM, FlagsEra::V6_10), PageFlags::READAHEAD);
    let written_back = PageFlags::RECLAIM | PageFlags::WRITEBACK;
    assert_eq!(expanded(written_back, FlagsEra::V6_10), written_back);
    let all = PagemapEntry::from_raw(1 << 55 | 1 << 56 | 1 << 61 | 1 << 62);
    assert_eq!(
        PageFlags::empty().expanded(FlagsEra::V6_10, all),
        PageFlags::SOFTDIRTY | PageFlags::MMAP_EXCLUSIVE | PageFlags::FILE | PageFlags::SWAP
    );
}

#[test]
fn well_known_flags_hide_what_page_types_hides() {
    let thp = PageFlags::THP | PageFlags::COMPOUND_HEAD | PageFlags::RESERVED;
    let hugetlb = PageFlags::HUGE | PageFlags::COMPOUND_TAIL | PageFlags::OWNER_2;

    assert_eq!(thp.well_known(), PageFlags::THP);
    assert_eq!(hugetlb.well_known(), PageFlags::HUGE | PageFlags::COMPOUND_TAIL);
}

#[test]
fn flags_have_the_era_of_the_release() {
    let rows = [
        ("2.6.32-754.el6", FlagsEra::V2_6_25),
        ("4.19.0-27-amd64", FlagsEra::V2_6_25),
        ("5.0.21", FlagsEra::V2_6_25),
        ("5.1", FlagsEra::V5_1),
        ("5.10.0-46-amd64", FlagsEra::V5_1),
        ("5.19.17", FlagsEra::V5_19),
        ("6.1.0-56-amd64", FlagsEra::V5_19),
        ("6.9.12", FlagsEra::V5_19),
        ("6.11.2", FlagsEra::V6_10),
        ("6.12.95-memtrace", FlagsEra::V6_12),
        ("7.2.13+deb14-amd64", FlagsEra::V6_12),
        ("next", FlagsEra::V6_12),
    ];

    for (release, era) in rows {
        assert_eq!(FlagsEra::of_release(Release::parse(release)), era, "{release}");
    }
}

#[test]
fn type_is_what_it_is_with_any_layout_or_unknown() {
    let of = |kind: u8, offset: u64| {
        let word = 1 << 62 | offset << 5 | u64::from(kind);
        PagemapEntry::from_raw(word).residence(PagemapEra::V4_2, None)
    };
    let slot = |kind, offset| SwapSlot { kind, offset };

    assert_eq!(of(0, 7), Residence::NotPresent(NotPresent::Swap(slot(0, 7))));
    assert_eq!(of(21, 7), Residence::NotPresent(NotPresent::Swap(slot(21, 7))));
    assert_eq!(of(22, 7), Residence::NotPresent(NotPresent::Unknown(slot(22, 7))));
    assert_eq!(of(30, 7), Residence::NotPresent(NotPresent::Unknown(slot(30, 7))));
    assert_eq!(of(31, 4), Residence::NotPresent(NotPresent::Marker(Marker::GUARD)));
    assert_eq!(of(31, 4096), Residence::NotPresent(NotPresent::Unknown(slot(31, 4096))));
    assert_eq!(of(0, 0), Residence::NotPresent(NotPresent::Hidden));
}

#[test]
fn layout_that_cannot_be_is_no_layout() {
    let read = |hwpoison| {
        let text = format!(r#"{{"hwpoison":{hwpoison},"migration":3,"device":4,"marker":1}}"#);
        serde_json::from_str::<SwapLayout>(&text).ok()
    };

    assert_eq!(read(1), Some(DISTRIBUTION));
    assert_eq!(read(200), None);
}
