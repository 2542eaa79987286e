//! Finds the NUMA node of a page frame.
//!
//! Layer: shell. Input: a [`Root`]; frame numbers. Output: numbers of nodes.
//! Source: `mm/vmstat.c` (`zoneinfo_show_print`); `Documentation/ABI/stable/sysfs-devices-node` and
//! `Documentation/admin-guide/mm/memory-hotplug.rst` for memory blocks.
//! Keeps: what the spans of zones and the memory blocks do not settle is `None`. Memory that comes or goes after the reading
//! is not known: read again.
//! Not here: on which node memory is wanted (`/proc/PID/numa_maps`).

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use super::files::{self, FileError, Root};
use crate::units::{PageSize, Pfn};

/// Which frames are on which node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMap {
    spans: Vec<Span>,
    /// Only if spans of nodes overlap, and the kernel tells blocks.
    blocks: Option<Blocks>,
}

/// The frames from the first to the last of a zone; there may be holes, and other nodes in them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    node: u32,
    frames: Range<u64>,
}

/// Parts of memory that are on one node each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocks {
    /// Frames in a block.
    frames_each: u64,
    /// The node of each block by number; `None` for those on several nodes.
    nodes: BTreeMap<u64, Option<u32>>,
}

impl NodeMap {
    /// Reads where the nodes of a host with base pages of size `page` are.
    pub fn read(root: &Root, page: PageSize) -> Result<Self, FileError> {
        let zones = files::text(&root.path("/proc/zoneinfo"))?.unwrap_or_default();
        let spans = parse(&zones);
        let blocks = if has_overlap(&spans) { Blocks::read(root, page)? } else { None };
        Ok(Self { spans, blocks })
    }

    /// The node of `frame`, that of the zone about it even if there is a hole in the zone; `None` outside of all zones, or if it is
    /// not known which.
    #[must_use]
    pub fn node(&self, frame: Pfn) -> Option<u32> {
        let frame = frame.as_raw();
        let mut spans = self.spans.iter().filter(|span| span.frames.contains(&frame));
        let node = spans.next()?.node;
        if spans.all(|other| other.node == node) {
            return Some(node);
        }
        let Blocks { frames_each, nodes } = self.blocks.as_ref()?;
        *nodes.get(&(frame / frames_each))?
    }
}

impl Blocks {
    /// Reads which blocks there are; `None` on kernels without such.
    fn read(root: &Root, page: PageSize) -> Result<Option<Self>, FileError> {
        let size = root.path("/sys/devices/system/memory/block_size_bytes");
        // Written as hexadecimal digits alone.
        let bytes = files::parsed(&size, |text| u64::from_str_radix(text, 16).ok())?;
        let Some(frames_each) = bytes.map(|bytes| bytes / page.bytes()).filter(|frames| *frames > 0) else {
            return Ok(None);
        };
        let mut nodes = BTreeMap::new();
        for (node, dir) in directories(root)? {
            for (block, _) in files::entries(&dir, |name| name.strip_prefix("memory")?.parse::<u64>().ok())? {
                nodes.entry(block).and_modify(|other| *other = None).or_insert(Some(node));
            }
        }
        Ok(Some(Self { frames_each, nodes }))
    }
}

/// The directory of each node, by number; none on kernels without NUMA.
pub(super) fn directories(root: &Root) -> Result<Vec<(u32, PathBuf)>, FileError> {
    let number = |name: &str| name.strip_prefix("node")?.parse().ok();
    files::entries(&root.path("/sys/devices/system/node"), number)
}

/// Whether a frame may be on several nodes.
fn has_overlap(spans: &[Span]) -> bool {
    let mut sorted: Vec<_> = spans.iter().collect();
    sorted.sort_unstable_by_key(|span| span.frames.start);
    // The furthest end so far, of each node.
    let mut ends = BTreeMap::<u32, u64>::new();
    sorted.into_iter().any(|Span { node, frames }| {
        let is_in_other = ends.iter().any(|(other, end)| other != node && frames.start < *end);
        let end = ends.entry(*node).or_default();
        *end = frames.end.max(*end);
        is_in_other
    })
}

/// The spans of the zones in the text of `/proc/zoneinfo`. Zones without memory do not tell where they are.
fn parse(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let (mut node, mut spanned) = (None, None);
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(zone) = line.strip_prefix("Node ") {
            node = zone.split_once(',').and_then(|(node, _)| node.parse::<u32>().ok());
            spanned = None;
        } else if let Some(frames) = line.strip_prefix("spanned ") {
            spanned = frames.trim_start().parse::<u64>().ok();
        } else if let Some(start) = line.strip_prefix("start_pfn:")
            && let (Some(node), Some(spanned)) = (node, spanned)
            && let Ok(start) = start.trim_start().parse::<u64>()
        {
            spans.push(Span { node, frames: start..start.saturating_add(spanned) });
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::{super::files::tests::tree, *};

    /// Blocks of 128 MiB, in bytes: `0x8000` frames of 4 KiB each.
    const BLOCK_SIZE: (&str, &str) = ("/sys/devices/system/memory/block_size_bytes", "8000000\n");

    /// A zone as the kernel writes it; without `start`, it has no memory.
    fn zone(node: u32, name: &str, start: Option<u64>, spanned: u64) -> String {
        let head = format!(
            "Node {node}, zone {name:>8}\n  per-node stats\n      nr_inactive_anon 77\n  pages free     3\n        \
             boost    0\n        min      66\n        low      82\n        high     98\n        promo    114\n        \
             spanned  {spanned}\n        present  {spanned}\n        managed  {spanned}\n        cma      0\n        \
             protection: (0, 0, 0, 0, 0)\n"
        );
        let Some(start) = start else {
            return head;
        };
        format!(
            "{head}      nr_free_pages 3\n      nr_zone_inactive_anon 0\n  pagesets\n    cpu: 0\n              \
             count:    0\n              high:     14\n              batch:    1\n  vm stats threshold: 4\n  \
             node_unreclaimable:  0\n  start_pfn:           {start}\n  reserved_highatomic: 0\n"
        )
    }

    fn map(zones: &[String], blocks: &[&str]) -> NodeMap {
        let zones = zones.concat();
        let files = blocks.iter().map(|path| (*path, ""));
        let (_dir, root) = tree(files.chain([("/proc/zoneinfo", zones.as_str()), BLOCK_SIZE]));
        NodeMap::read(&root, PageSize::from_bytes(4096).expect("a power of two")).expect("a tree")
    }

    fn node(map: &NodeMap, frame: u64) -> Option<u32> {
        map.node(Pfn::new(frame).expect("not 0"))
    }

    #[test]
    fn frame_is_on_the_node_whose_zone_spans_it() {
        let map = map(
            &[
                zone(0, "DMA", Some(1), 4095),
                zone(0, "DMA32", Some(4096), 0x7_f000),
                zone(0, "Normal", None, 0),
                zone(0, "Movable", None, 0),
                zone(1, "DMA", None, 0),
                zone(1, "Normal", Some(0x10_0000), 0x8_0000),
                zone(1, "Device", None, 0),
            ],
            &[],
        );

        assert_eq!((node(&map, 1), node(&map, 4095), node(&map, 4096)), (Some(0), Some(0), Some(0)));
        assert_eq!((node(&map, 0x7_ffff), node(&map, 0x8_0000)), (Some(0), None));
        assert_eq!((node(&map, 0xf_ffff), node(&map, 0x10_0000)), (None, Some(1)));
        assert_eq!((node(&map, 0x17_ffff), node(&map, 0x18_0000)), (Some(1), None));
    }

    #[test]
    fn where_spans_overlap_blocks_decide() {
        let zones = [zone(0, "Normal", Some(0x8000), 0x2_8000), zone(1, "Normal", Some(0x1_0000), 0x1_0000)];
        // Block 1 is frames 0x8000 to 0xffff, and so on.
        let map = map(
            &zones,
            &[
                "/sys/devices/system/node/node0/memory1/state",
                "/sys/devices/system/node/node0/memory3/state",
                "/sys/devices/system/node/node0/meminfo",
                "/sys/devices/system/node/node1/memory2/state",
                "/sys/devices/system/node/node1/memory3/state",
            ],
        );

        // Only node 0 spans it.
        assert_eq!((node(&map, 0x8000), node(&map, 0x2_8000)), (Some(0), Some(0)));
        assert_eq!((node(&map, 0x1_0000), node(&map, 0x1_7fff)), (Some(1), Some(1)));
        // A block of both.
        assert_eq!((node(&map, 0x1_8000), node(&map, 0x1_ffff)), (None, None));
    }

    #[test]
    fn where_spans_overlap_and_there_are_no_blocks_nothing_is_known() {
        let zones = [zone(0, "Normal", Some(100), 200), zone(1, "Normal", Some(200), 50)];
        let text = zones.concat();
        let (_dir, root) = tree([("/proc/zoneinfo", text.as_str())]);
        let page = PageSize::from_bytes(4096).expect("a power of two");

        let map = NodeMap::read(&root, page).expect("a tree");

        assert_eq!((node(&map, 199), node(&map, 200), node(&map, 250)), (Some(0), None, Some(0)));
    }

    #[test]
    fn zones_of_one_node_may_overlap() {
        let map = map(&[zone(2, "Normal", Some(100), 200), zone(2, "Movable", Some(150), 300)], &[]);

        assert_eq!((node(&map, 160), map.blocks.is_none()), (Some(2), true));
    }

    #[test]
    fn overlap_is_seen_behind_a_span_that_ends_before() {
        let span = |node, frames| Span { node, frames };

        assert!(has_overlap(&[span(0, 0..100), span(0, 10..20), span(1, 50..60)]));
        assert!(has_overlap(&[span(1, 50..60), span(0, 0..51)]));
        assert!(!has_overlap(&[span(0, 0..50), span(1, 50..60), span(0, 60..70)]));
    }

    #[test]
    fn without_zones_nothing_is_known() {
        let (_dir, root) = tree([]);
        let page = PageSize::from_bytes(4096).expect("a power of two");

        let map = NodeMap::read(&root, page).expect("no error");

        assert_eq!(node(&map, 1), None);
    }
}
