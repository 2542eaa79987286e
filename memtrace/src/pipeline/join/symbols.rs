//! Names of code.

use std::{collections::HashMap, sync::Arc};

use crate::{
    event::{CodeFile, Function, NamedCode, Symbols},
    units::Timestamp,
};

/// The functions at one place, and since when.
type Named = Vec<(Timestamp, Arc<[Function]>)>;

/// The names that are known.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct KnownSymbols {
    files: HashMap<CodeFile, HashMap<u64, Named>>,
}

impl KnownSymbols {
    /// Notes names; of code that has some since the same time already, the later ones count.
    pub(in crate::pipeline) fn learn(&mut self, symbols: Symbols) {
        let code = self.files.entry(symbols.file).or_default();
        for NamedCode { at, since, functions } in symbols.code {
            let named = code.entry(at).or_default();
            match named.binary_search_by_key(&since, |(since, _)| *since) {
                Ok(known) => named[known].1 = functions,
                Err(place) => named.insert(place, (since, functions)),
            }
        }
    }

    /// The functions of the code in `file` that was at this offset or address at `time`; empty if none is known.
    pub(in crate::pipeline) fn of(&self, file: &CodeFile, at: u64, time: Timestamp) -> Arc<[Function]> {
        let named = || {
            let named = self.files.get(file)?.get(&at)?;
            let before = named.partition_point(|(since, _)| *since <= time);
            Some(Arc::clone(&named.get(before.saturating_sub(1))?.1))
        };
        named().unwrap_or_default()
    }
}
