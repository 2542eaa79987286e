//! Names of code.

use std::{collections::HashMap, sync::Arc};

use crate::event::{CodeFile, Function, Symbols};

/// The names that are known.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct KnownSymbols {
    files: HashMap<CodeFile, HashMap<u64, Arc<[Function]>>>,
}

impl KnownSymbols {
    /// Notes names; of code that has some already the later ones count.
    pub(in crate::pipeline) fn learn(&mut self, symbols: Symbols) {
        self.files.entry(symbols.file).or_default().extend(symbols.code);
    }

    /// The functions of the code in `file` at this offset or address; empty if none is known.
    pub(in crate::pipeline) fn of(&self, file: &CodeFile, offset: u64) -> Arc<[Function]> {
        self.files.get(file).and_then(|code| code.get(&offset)).cloned().unwrap_or_default()
    }
}
