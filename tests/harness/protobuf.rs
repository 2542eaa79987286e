//! Reads messages of Protocol Buffers by the numbers of their fields.
//!
//! Input: bytes. Output: [`Message`].
//! Source: the encoding as <https://protobuf.dev/programming-guides/encoding> describes it.
//! Keeps: shares no code with what memtrace writes them with.
//! Not here: what fields mean (the tests).

/// A message: its fields in order.
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    fields: Vec<(u64, Field<'a>)>,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Number(u64),
    /// A text, a message, or several numbers.
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Reads a message that ends where `bytes` do.
    #[must_use]
    pub fn read(mut bytes: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                2 => {
                    let len = usize::try_from(varint(&mut bytes)).expect("a length");
                    let (field, rest) = bytes.split_at(len);
                    bytes = rest;
                    Field::Bytes(field)
                }
                other => panic!("no field of a profile is of type {other}"),
            };
            fields.push((key >> 3, field));
        }
        Self { fields }
    }

    /// The numbers of the field `number`, however often it is there.
    #[must_use]
    pub fn numbers(&self, number: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        for field in self.all(number) {
            match field {
                Field::Number(number) => numbers.push(number),
                Field::Bytes(mut packed) => {
                    while !packed.is_empty() {
                        numbers.push(varint(&mut packed));
                    }
                }
            }
        }
        numbers
    }

    /// The number of the field `number`; 0 if it is not there.
    #[must_use]
    pub fn number(&self, number: u64) -> u64 {
        self.numbers(number).last().copied().unwrap_or_default()
    }

    /// The texts of the field `number`.
    #[must_use]
    pub fn texts(&self, number: u64) -> Vec<&'a str> {
        self.bytes(number).map(|bytes| std::str::from_utf8(bytes).expect("UTF-8")).collect()
    }

    /// The messages of the field `number`.
    #[must_use]
    pub fn messages(&self, number: u64) -> Vec<Message<'a>> {
        self.bytes(number).map(Message::read).collect()
    }

    fn bytes(&self, number: u64) -> impl Iterator<Item = &'a [u8]> {
        self.all(number).map(move |field| match field {
            Field::Bytes(bytes) => bytes,
            Field::Number(_) => panic!("field {number} is a number"),
        })
    }

    fn all(&self, number: u64) -> impl Iterator<Item = Field<'a>> {
        self.fields.iter().filter(move |(one, _)| *one == number).map(|(_, field)| *field)
    }
}

/// Takes seven bits of each byte, the lowest ones first, up to one without the highest bit.
fn varint(bytes: &mut &[u8]) -> u64 {
    let len = bytes.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
}
