//! Layouts shared by the eBPF programs and user space, one concern per file.

/// Declares a `repr(C)` record that user space can read from bytes without `unsafe`.
///
/// The fields are read in order and must leave no gap; a constant assertion compares their sum with
/// the size of the struct, so implicit padding fails to compile.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident = $len:literal {
            $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl $name {
            /// Size of the record in bytes.
            pub const LEN: usize = $len;

            /// Reads the record from the start of `bytes`; `None` if they are fewer than [`Self::LEN`].
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                use $crate::abi::field::Field as _;

                let mut rest = bytes.get(..Self::LEN)?;
                let record = Self { $($field: <$ty>::take(&mut rest)?,)* };
                debug_assert!(rest.is_empty());
                Some(record)
            }

            /// The record as the kernel would have written it.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; Self::LEN] {
                use $crate::abi::field::Field as _;

                let mut bytes = [0; Self::LEN];
                let mut at = 0;
                $(self.$field.put(&mut bytes, &mut at);)*
                debug_assert!(at == Self::LEN);
                bytes
            }
        }

        const _: () = {
            assert!(core::mem::size_of::<$name>() == $len);
            assert!(0 $(+ core::mem::size_of::<$ty>())* == $len);
        };

        impl $crate::abi::field::Field for $name {
            fn take(rest: &mut &[u8]) -> Option<Self> {
                let record = Self::from_bytes(rest)?;
                *rest = rest.get(Self::LEN..)?;
                Some(record)
            }

            fn put(&self, bytes: &mut [u8], at: &mut usize) {
                $crate::abi::field::put_bytes(&self.to_bytes(), bytes, at);
            }
        }
    };
}

/// Declares an open enumeration: user space meets values that it does not know yet.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($ty:ty) { $($(#[$value_meta:meta])* $value:ident = $number:literal,)* }
    ) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub $ty);

        impl $name {
            $($(#[$value_meta])* pub const $value: Self = Self($number);)*
        }

        impl $crate::abi::field::Field for $name {
            fn take(rest: &mut &[u8]) -> Option<Self> {
                <$ty as $crate::abi::field::Field>::take(rest).map(Self)
            }

            fn put(&self, bytes: &mut [u8], at: &mut usize) {
                $crate::abi::field::Field::put(&self.0, bytes, at);
            }
        }
    };
}

pub(crate) mod config;
pub(crate) mod counters;
pub(crate) mod event;
pub(crate) mod fault;
mod field;
pub(crate) mod heat;
pub mod names;
pub(crate) mod stack;
pub(crate) mod task;
