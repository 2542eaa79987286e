//! How the field types of a record are read from and written to bytes.

/// A fixed-width value in native byte order.
pub(crate) trait Field: Sized {
    /// Takes the value from the front of `rest`; `None` if it is too short.
    fn take(rest: &mut &[u8]) -> Option<Self>;

    /// Writes the value at `at`, which moves past it.
    fn put(&self, bytes: &mut [u8], at: &mut usize);
}

/// Copies `value` to `bytes[at..]` and moves `at` past it.
pub(crate) fn put_bytes(value: &[u8], bytes: &mut [u8], at: &mut usize) {
    let end = *at + value.len();
    bytes[*at..end].copy_from_slice(value);
    *at = end;
}

macro_rules! integer_fields {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            fn take(rest: &mut &[u8]) -> Option<Self> {
                let (value, tail) = rest.split_first_chunk()?;
                *rest = tail;
                Some(Self::from_ne_bytes(*value))
            }

            fn put(&self, bytes: &mut [u8], at: &mut usize) {
                put_bytes(&self.to_ne_bytes(), bytes, at);
            }
        }
    )*};
}

integer_fields!(u8, u16, u32, u64, i64);

impl<const N: usize> Field for [u8; N] {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let (value, tail) = rest.split_first_chunk()?;
        *rest = tail;
        Some(*value)
    }

    fn put(&self, bytes: &mut [u8], at: &mut usize) {
        put_bytes(self, bytes, at);
    }
}
