//! Stacks of a recording, with the names of the functions that their frames are in.
//!
//! Input: the table `frames` of a [`Recording`], and the files of the program and the C library. Output: [`Stacks`].
//! Not here: what a program says of its stacks (`ledger`).

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::Path,
};

use crate::{recording::Recording, rows::FrameRow, symbols::Symbols};

/// The stacks of a recording.
#[derive(Debug)]
pub struct Stacks {
    program: String,
    frames: HashMap<u64, Vec<FrameRow>>,
    symbols: BTreeMap<String, Symbols>,
}

impl Stacks {
    /// Those of a recording of `program`.
    #[must_use]
    #[track_caller]
    pub fn of(recording: &Recording, program: &str) -> Self {
        let mut frames: HashMap<u64, Vec<FrameRow>> = HashMap::new();
        for frame in recording.frames().into_iter().filter(|frame| frame.inlined == 0) {
            frames.entry(frame.stack).or_default().push(frame);
        }
        let program = fs::canonicalize(program).expect("it was run").display().to_string();
        let mut stacks = Self { program, frames, symbols: BTreeMap::new() };
        for frames in stacks.frames.values() {
            let depths: Vec<_> = frames.iter().map(|frame| frame.depth).collect();
            assert_eq!(depths, (0..frames.len() as u64).collect::<Vec<_>>(), "innermost first: {frames:?}");
            let ends = frames.iter().map(|frame| frame.end.is_some());
            assert_eq!(ends.rev().collect::<Vec<_>>()[..1], [true], "{frames:?}");
            for module in frames.iter().filter_map(|frame| frame.module.as_ref()) {
                if stacks.is_known(module) && !stacks.symbols.contains_key(module) {
                    stacks.symbols.insert(module.clone(), Symbols::of(module));
                }
            }
        }
        stacks
    }

    /// Whether tests know what functions of the file mean.
    fn is_known(&self, module: &str) -> bool {
        module == self.program || is_libc(module)
    }

    /// The frames of the stack `number`, innermost first; `None` if there are none.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&[FrameRow]> {
        self.frames.get(&number).map(Vec::as_slice)
    }

    /// The functions that `frame` is in: aliases are several. None of a file that is not known.
    #[must_use]
    pub fn names(&self, frame: &FrameRow) -> Vec<&str> {
        let symbols = frame.module.as_ref().and_then(|module| self.symbols.get(module));
        let found = symbols.zip(frame.file_offset_bytes).map(|(symbols, offset)| symbols.at(offset));
        found.unwrap_or_default()
    }

    /// Whether `frame` is in the program.
    #[must_use]
    pub fn is_of_program(&self, frame: &FrameRow) -> bool {
        frame.module.as_ref() == Some(&self.program)
    }

    /// Whether `frame` is in the function `name` of the program.
    #[must_use]
    pub fn is_in(&self, frame: &FrameRow, name: &str) -> bool {
        self.is_of_program(frame) && self.names(frame).contains(&name)
    }

    /// The frames of a stack, for people.
    #[must_use]
    pub fn text(&self, frames: &[FrameRow]) -> String {
        let mut text = String::new();
        for frame in frames {
            let module = frame.module.as_deref().unwrap_or("?");
            let (names, end) = (self.names(frame), frame.end.as_deref().unwrap_or(""));
            let offset = frame.file_offset_bytes.unwrap_or(0);
            let _infallible = writeln!(text, "    {:#x} {module}+{offset:#x} {names:?} {end}", frame.address);
        }
        text
    }
}

impl FrameRow {
    /// Whether it is in the C library.
    #[must_use]
    pub fn is_in_libc(&self) -> bool {
        self.module.as_deref().is_some_and(is_libc)
    }
}

/// Whether the file is the C library.
fn is_libc(module: &str) -> bool {
    Path::new(module).file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc"))
}
