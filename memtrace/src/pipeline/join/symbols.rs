//! Names of code.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    event::{CodeFile, Function, NamedCode, Symbols},
    pipeline::END_OF_TIME,
    units::Timestamp,
};

/// The functions of code of one file, by place in it and since when.
type Named = BTreeMap<(u64, Timestamp), Arc<[Function]>>;

/// The names that are known.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct KnownSymbols {
    files: HashMap<CodeFile, Named>,
}

impl KnownSymbols {
    /// Notes names; of code that has some since the same time already, the later ones count.
    pub(in crate::pipeline) fn learn(&mut self, symbols: Symbols) {
        let code = self.files.entry(symbols.file).or_default();
        code.extend(
            symbols.code.into_iter().map(|NamedCode { at, since, functions }| ((at, since), functions)),
        );
    }

    /// The functions of the code in `file` that was at this offset or address at `time`; empty if none is known.
    pub(in crate::pipeline) fn of(&self, file: &CodeFile, at: u64, time: Timestamp) -> Arc<[Function]> {
        let named = || {
            let code = self.files.get(file)?;
            // Before its first name, code has that.
            let before = code.range((at, Timestamp::default())..=(at, time)).next_back();
            let named = before.or_else(|| code.range((at, time)..=(at, END_OF_TIME)).next())?;
            Some(Arc::clone(named.1))
        };
        named().unwrap_or_default()
    }
}
