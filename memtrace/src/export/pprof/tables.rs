//! The tables of a profile: locations, functions, mappings, strings.
//!
//! Numbers begin with 1, those of strings with 0, which is the empty one.

use std::collections::HashMap;

use super::{
    message::{Function, Line, Location, Mapping, Profile},
    stretches::{FILE_BYTES, File, Stretches},
};
use crate::{
    export::stacks::{
        interned::Interned,
        names::{self, KernelFrame},
    },
    timeline::{CodePlace, CodePosition, Module},
    units::Hexadecimal,
};

/// The tables as they grow.
#[derive(Debug, Default)]
pub(super) struct Tables {
    strings: Interned<String>,
    /// By the strings that are their name, their name in the system, and their file.
    functions: Interned<[i64; 3]>,
    files: Interned<File>,
    /// Mappings by the number of their file and the offset at which they begin.
    stretches: HashMap<(u32, u64), u64>,
    mappings: Vec<Mapping>,
    /// Those of places first.
    locations: Vec<Location>,
    /// Locations without an address, by their function.
    others: HashMap<u64, u64>,
    /// The mapping of the kernel, once there is one.
    kernel: Option<u64>,
}

impl Tables {
    /// Tables with the locations of `places`, which have the numbers of these, from 1 on.
    pub(super) fn of(places: &[CodePlace], stretches: &Stretches) -> Self {
        let mut tables = Self::default();
        tables.text("");
        for place in places {
            let (mapping_id, address) = match (&place.module, place.position) {
                (Some(Module::Named(name)), CodePosition::InFile(offset)) => {
                    tables.in_file((name.clone(), place.build_id.clone()), offset, stretches)
                }
                (_, CodePosition::InFile(offset)) => (0, offset),
                (_, CodePosition::At(addr)) => (0, addr.as_raw()),
            };
            let line = tables.lines(place);
            tables.locate(mapping_id, address, line);
        }
        tables
    }

    /// The location of a frame of the kernel.
    pub(super) fn kernel(&mut self, frame: &KernelFrame) -> u64 {
        let mapping_id = self.kernel.unwrap_or_else(|| {
            let filename = self.text(&String::from_utf8_lossy(Module::Kernel.name()));
            self.map(Mapping { filename, ..Mapping::default() })
        });
        self.kernel = Some(mapping_id);
        self.without_address(mapping_id, &frame.label(), &frame.name)
    }

    /// The location of what stands in place of frames that are missing.
    pub(super) fn bracketed(&mut self, name: &str) -> u64 {
        self.without_address(0, name, name)
    }

    /// The location of a function that is known by its name alone.
    fn without_address(&mut self, mapping_id: u64, name: &str, system_name: &str) -> u64 {
        let function_id = self.function(name, system_name, "");
        if let Some(id) = self.others.get(&function_id) {
            return *id;
        }
        let id = self.locate(mapping_id, 0, vec![Line { function_id, line: 0 }]);
        self.others.insert(function_id, id);
        id
    }

    /// The number of a string.
    pub(super) fn text(&mut self, text: &str) -> i64 {
        self.strings.index(text.to_owned()).into()
    }

    /// The mapping and the address of the code at `offset` of `file`.
    fn in_file(&mut self, file: File, offset: u64, stretches: &Stretches) -> (u64, u64) {
        let stretch = stretches.around(&file, offset);
        let (name, build_id) = file.clone();
        let file = self.files.index(file);
        let base = (u64::from(file) + 1) * FILE_BYTES;
        let address = base.saturating_add(offset);
        if let Some(id) = self.stretches.get(&(file, stretch.start)) {
            return (*id, address);
        }
        let build_id = build_id.map_or_else(String::new, |id| Hexadecimal(&id).to_string());
        let mapping = Mapping {
            memory_start: base.saturating_add(stretch.start),
            memory_limit: base.saturating_add(stretch.end),
            file_offset: stretch.start,
            filename: self.text(&String::from_utf8_lossy(&name)),
            build_id: self.text(&build_id),
            ..Mapping::default()
        };
        let id = self.map(mapping);
        self.stretches.insert((file, stretch.start), id);
        (id, address)
    }

    /// The functions at `place`. Where no file has code, nobody will find a better name than that.
    fn lines(&mut self, place: &CodePlace) -> Vec<Line> {
        let is_in_file = matches!(place.position, CodePosition::InFile(_));
        if place.functions.is_empty() {
            let names = if is_in_file { Vec::new() } else { names::of_place(place) };
            let line = |name: String| Line { function_id: self.function(&name, &name, ""), line: 0 };
            return names.into_iter().map(line).collect();
        }
        let functions = place.functions.iter().map(|function| {
            let name = names::of_function(function, place);
            let source = function.source_file.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let function_id = self.function(&name, &name, &source);
            Line { function_id, line: function.line.unwrap_or_default().into() }
        });
        functions.collect()
    }

    fn function(&mut self, name: &str, system_name: &str, filename: &str) -> u64 {
        let texts = [name, system_name, filename].map(|text| self.text(text));
        u64::from(self.functions.index(texts)) + 1
    }

    fn locate(&mut self, mapping_id: u64, address: u64, line: Vec<Line>) -> u64 {
        let id = self.locations.len() as u64 + 1;
        self.locations.push(Location { id, mapping_id, address, line });
        id
    }

    fn map(&mut self, mapping: Mapping) -> u64 {
        let id = self.mappings.len() as u64 + 1;
        self.mappings.push(Mapping { id, ..mapping });
        id
    }

    /// The part of a profile that the tables are.
    pub(super) fn into_profile(self) -> Profile {
        let functions: Vec<Function> = (1..)
            .zip(self.functions.into_values())
            .map(|(id, [name, system_name, filename])| Function { id, name, system_name, filename })
            .collect();
        let mut mappings = self.mappings;
        for mapping in &mut mappings {
            (mapping.has_functions, mapping.has_filenames, mapping.has_line_numbers) = (true, true, true);
        }
        for Location { mapping_id, line, .. } in &self.locations {
            let Some(mapping) = index(*mapping_id).and_then(|index| mappings.get_mut(index)) else {
                continue;
            };
            let has_file =
                |line: &Line| index(line.function_id).is_some_and(|index| functions[index].filename != 0);
            mapping.has_functions &= !line.is_empty();
            mapping.has_filenames &= !line.is_empty() && line.iter().all(has_file);
            mapping.has_line_numbers &= !line.is_empty() && line.iter().all(|line| line.line != 0);
            mapping.has_inline_frames |= line.len() > 1;
        }
        Profile {
            mapping: mappings,
            location: self.locations,
            function: functions,
            string_table: self.strings.into_values(),
            ..Profile::default()
        }
    }
}

/// Where the entry with the number `id` is; `None` for 0, which none has.
fn index(id: u64) -> Option<usize> {
    usize::try_from(id.checked_sub(1)?).ok()
}
