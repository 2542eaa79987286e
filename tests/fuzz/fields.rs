//! The payload of a frames chunk as fields that can be changed one by one.
//!
//! Most of what is in an item are numbers as postcard writes them, so it is taken for nothing else: strings and names are numbers of
//! one byte then.

/// A frames payload.
pub(crate) struct Payload {
    pub(crate) items: Vec<Item>,
    /// The columns of its faults.
    pub(crate) columns: Vec<u8>,
}

/// One item.
#[derive(Clone)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) kind: u64,
    /// Its bytes, number by number; those of a ring in one piece.
    pub(crate) fields: Vec<Vec<u8>>,
    /// Whether it is the bytes of a ring, and of which.
    pub(crate) ring: Option<Ring>,
}

/// Whose records the bytes of an item are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    Faults,
    Control,
    SideBand,
}

impl Ring {
    /// The ring whose bytes an item of `kind` has.
    const fn of(kind: u64) -> Option<Self> {
        match kind {
            2 => Some(Self::Faults),
            3 => Some(Self::Control),
            4 => Some(Self::SideBand),
            _ => None,
        }
    }
}

impl Payload {
    /// The payload of `count` items in `plain`; `None` if it is none any more.
    pub(crate) fn parse(plain: &[u8], count: u32) -> Option<Self> {
        let (items_len, rest) = plain.split_first_chunk()?;
        let (mut bytes, columns) = rest.split_at_checked(u32::from_le_bytes(*items_len) as usize)?;
        let mut items = Vec::new();
        for _ in 0..count {
            let ((kind, len), rest) = postcard::take_from_bytes::<(u64, usize)>(bytes).ok()?;
            let (item, tail) = rest.split_at_checked(len)?;
            bytes = tail;
            let ring = Ring::of(kind);
            let fields = if ring.is_some() { vec![item.to_vec()] } else { numbers(item) };
            items.push(Item { kind, fields, ring });
        }
        Some(Self { items, columns: columns.to_vec() })
    }

    /// The payload as it is stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let items = self.items.iter().flat_map(Item::to_bytes).collect::<Vec<_>>();
        let len = u32::try_from(items.len()).expect("payloads are small");
        [&len.to_le_bytes()[..], &items, &self.columns].concat()
    }
}

impl Item {
    fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.fields.concat();
        [varint(self.kind), varint(bytes.len() as u64), bytes].concat()
    }

    /// The bytes of a ring, which [`Self::set_ring_bytes`] sets.
    pub(crate) fn ring_bytes(&self) -> &[u8] {
        self.fields.first().map_or(&[], |bytes| &bytes[..])
    }

    /// Puts the bytes of a ring.
    pub(crate) fn set_ring_bytes(&mut self, bytes: Vec<u8>) {
        self.fields = vec![bytes];
    }
}

/// `bytes`, cut behind each number.
fn numbers(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| byte & 0x80 == 0).map(<[u8]>::to_vec).collect()
}

/// `value` as postcard writes it.
pub(crate) fn varint(value: u64) -> Vec<u8> {
    postcard::to_allocvec(&value).expect("a number can be written")
}

/// The number in `field`; `None` if there is none.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    postcard::take_from_bytes(field).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}
