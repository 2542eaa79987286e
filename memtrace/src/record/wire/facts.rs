//! What header and end mark have of types that are not of `record`, in their form there.
//!
//! Layer: codec. Input: values of `event` and `pipeline`. Output: JSON, and back.
//! Keeps: a key never gets another meaning. Keys that are missing are unknown, those of later builds are passed over.
//! Not here: the other parts of header and end mark (`record`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    event::{Device, FaultCounts, FileKind, HostFacts, LargeFolios},
    pipeline::{Area, Detail, FocusOptions},
    units::{CpuShare, PageSize, Timestamp, VirtRange},
};

#[derive(Serialize, Deserialize)]
#[serde(remote = "HostFacts")]
pub(in crate::record) struct StoredHost {
    page: PageSize,
    arch: String,
    kernel_release: String,
    cpus: u32,
    start: Timestamp,
    realtime_offset_ns: i64,
    #[serde(default, with = "devices")]
    devices: Vec<(Device, FileKind)>,
    #[serde(default)]
    large_folios: Option<LargeFolios>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FileKind", rename_all = "snake_case")]
enum StoredFileKind {
    SharedMemory,
    Tmpfs,
    Hugetlb,
    Secret,
    Device,
    Other,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FaultCounts")]
pub(in crate::record) struct StoredCounts {
    minor: u64,
    major: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Detail", rename_all = "snake_case")]
pub(in crate::record) enum StoredDetail {
    Full,
    Counts,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FocusOptions")]
pub(in crate::record) struct StoredFocus {
    #[serde(with = "areas")]
    areas: Vec<Area>,
    max_cpu: CpuShare,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Area", rename_all = "snake_case")]
enum StoredArea {
    All,
    Range(VirtRange),
    Name(String),
}

/// A list of [`HostFacts::devices`].
mod devices {
    use super::{Deserialize, Deserializer, Device, FileKind, Serialize, Serializer, StoredFileKind};

    #[derive(Serialize, Deserialize)]
    struct Stored(Device, #[serde(with = "StoredFileKind")] FileKind);

    pub(super) fn serialize<S: Serializer>(all: &[(Device, FileKind)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().map(|(device, kind)| Stored(*device, *kind)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Device, FileKind)>, D::Error> {
        let all = Vec::deserialize(from)?;
        Ok(all.into_iter().map(|Stored(device, kind)| (device, kind)).collect())
    }
}

/// A list of [`FocusOptions::areas`].
mod areas {
    use super::{Area, Deserialize, Deserializer, Serialize, Serializer, StoredArea};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Stored(#[serde(with = "StoredArea")] Area);

    pub(super) fn serialize<S: Serializer>(all: &[Area], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(all.iter().cloned().map(Stored))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Area>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().map(|Stored(area)| area).collect())
    }
}

/// [`FaultCounts`] that may be unknown.
pub(in crate::record) mod known_counts {
    use super::{Deserialize, Deserializer, FaultCounts, Serialize, Serializer, StoredCounts};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Stored(#[serde(with = "StoredCounts")] FaultCounts);

    #[expect(clippy::ref_option, reason = "serde hands over the field")]
    pub(in crate::record) fn serialize<S: Serializer>(
        counts: &Option<FaultCounts>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        counts.map(Stored).serialize(to)
    }

    pub(in crate::record) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<FaultCounts>, D::Error> {
        Ok(Option::deserialize(from)?.map(|Stored(counts)| counts))
    }
}
