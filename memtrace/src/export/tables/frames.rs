//! The columns of the table `frames`.

use crate::{
    event::StackEnd,
    export::{
        TableRow,
        column::{
            Column,
            Get::{Address, Count, Flag, Hex, Id, Text, Word},
            column,
        },
    },
    timeline::{CodePosition, FrameRow, Module, Row, RowSet},
};

impl TableRow for FrameRow {
    const NAME: &'static str = "frames";
    const DOC: &'static str = "One row per frame of each distinct stack, innermost first";
    const ROWS: RowSet = RowSet::FRAMES;
    const COLUMNS: &'static [Column<Self>] = &[
        column("stack", "number of the stack", Id(|row| Some(row.stack))),
        column("depth", "frames below it: 0 is the innermost one", Count(|row| Some(row.depth))),
        column(
            "address",
            "program counter: where a call returns to, but for the innermost frame and what a signal interrupted",
            Address(|row| Some(row.frame.addr)),
        ),
        column(
            "module",
            "where that lies: path or bracketed name as in maps, or [anon]; empty if no known region held it",
            Text(|row| row.place.module.as_ref().map(Module::name)),
        ),
        column(
            "build_id",
            "of the file; empty if it has none, or it was not read",
            Hex(|row| row.place.build_id.as_deref()),
        ),
        column(
            "file_offset_bytes",
            "offset in the file of the instruction: of a call, of its last byte",
            Count(|row| match row.place.position {
                CodePosition::InFile(offset) => Some(offset),
                CodePosition::At(_) => None,
            }),
        ),
        column(
            "end",
            "of the outermost frame, why there are no more: root (the thread began there), too_deep, unreadable, no_rule (not known \
             yet, and no room to find out), no_unwind_information (of the file), unsupported (an unusual kind of it), beyond_dump \
             (more than 16 KiB from one frame that was not known yet), no_code (nothing executable is mapped there), \
             no_frame_pointer, astray (the next frame would not lie above) or no_file (the file could not be read)",
            Word(|row| row.end.map(StackEnd::name)),
        ),
        column(
            "by_frame_pointer",
            "1 if it was found by the frame pointer, for what it called has no unwind information",
            Flag(|row| row.frame.by_frame_pointer),
        ),
        column(
            "function",
            "name of the function; empty if it is not known",
            Text(|row| row.function.name.as_deref()),
        ),
        column(
            "offset_bytes",
            "distance of the instruction from the start of the function; empty if that is not known, or it was inlined",
            Count(|row| row.function.offset),
        ),
        column(
            "source_file",
            "path of the source, where the file has debug information",
            Text(|row| row.function.source_file.as_deref()),
        ),
        column("line", "line in that", Id(|row| row.function.line.map(u64::from))),
        column(
            "inlined",
            "1 if the function was inlined into that of the next row, which has the same depth",
            Flag(|row| row.inlined),
        ),
    ];

    fn of(row: &Row) -> Option<&Self> {
        if let Row::Frame(row) = row { Some(row) } else { None }
    }
}
