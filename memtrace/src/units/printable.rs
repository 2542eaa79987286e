//! Text from outside as a terminal may get it.
//!
//! Paths, names of processes and of cgroups, arguments and all that a recording holds are anybody's bytes. What is not
//! printable is shown as maps shows a line feed (`mangle_path` of `fs/seq_file.c`): a backslash and three octal digits for each byte.

use std::{
    ffi::OsStr,
    fmt::{self, Display, Formatter},
};

/// A text without what would move the cursor, set a title, hide or reorder what stands there, or be no text at all.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a> {
    bytes: &'a [u8],
    has_layout: bool,
}

impl<'a> Printable<'a> {
    /// A name, in one line.
    pub fn new(name: &'a (impl AsRef<OsStr> + ?Sized)) -> Self {
        Self::from_bytes(name.as_ref().as_encoded_bytes())
    }

    /// A name, in one line.
    #[must_use]
    pub const fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, has_layout: false }
    }

    /// A whole text of lines, tabulators and styles (`ESC [ … m`), in which names should be printable already.
    #[must_use]
    pub const fn layout(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), has_layout: true }
    }
}

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some(at) = rest.find(is_unprintable) {
                f.write_str(&rest[..at])?;
                rest = &rest[at..];
                let layout = if self.has_layout { layout_len(rest) } else { 0 };
                f.write_str(&rest[..layout])?;
                rest = &rest[layout..];
                if layout == 0 {
                    let len = rest.chars().next().map_or(0, char::len_utf8);
                    escape(f, &rest.as_bytes()[..len])?;
                    rest = &rest[len..];
                }
            }
            f.write_str(rest)?;
            escape(f, chunk.invalid())?;
        }
        Ok(())
    }
}

/// Controls (C0, C1 and DEL), ends of lines and paragraphs, and what changes the direction of writing (UAX #9, table 1).
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes of the layout with which `text` begins.
fn layout_len(text: &str) -> usize {
    if text.starts_with(['\n', '\t']) {
        return 1;
    }
    let Some(style) = text.strip_prefix("\x1b[") else { return 0 };
    let numbers = style.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    if numbers.starts_with('m') { text.len() - numbers.len() + 1 } else { 0 }
}

fn escape(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> String {
        Printable::from_bytes(bytes).to_string()
    }

    #[test]
    fn printable_names_stay_as_they_are() {
        for text in
            ["/usr/lib/libc.so.6", "sp  ace", "back\\slash", "naïve", "日本語", "👩\u{200d}🚀", "a \"b\", c"]
        {
            assert_eq!(name(text.as_bytes()), text);
        }
    }

    #[test]
    fn controls_are_octal() {
        assert_eq!(name(b"esc\x1b[31mred\x1b]0;title\x07"), "esc\\033[31mred\\033]0;title\\007");
        assert_eq!(name(b"cr\rlf\ntab\tdel\x7f"), "cr\\015lf\\012tab\\011del\\177");
        // U+009B, the control sequence introducer in one character.
        assert_eq!(name("c1\u{9b}2J".as_bytes()), "c1\\302\\2332J");
    }

    #[test]
    fn changes_of_direction_are_octal() {
        let directions =
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        for direction in directions.chars() {
            let text = name(direction.to_string().as_bytes());

            assert!(text.is_ascii() && text.starts_with('\\'), "{text}");
        }
        assert_eq!(name("rtl\u{202e}fdp".as_bytes()), "rtl\\342\\200\\256fdp");
    }

    #[test]
    fn bytes_that_are_no_text_are_octal() {
        assert_eq!(name(b"latin\xe9\xff!"), "latin\\351\\377!");
        assert_eq!(name(b"cut short \xe2\x80"), "cut short \\342\\200");
    }

    #[test]
    fn layout_keeps_lines_tabulators_and_styles_alone() {
        let layout = |text| Printable::layout(text).to_string();

        assert_eq!(layout("\x1b[1m\x1b[33mname\x1b[0m\ta\n"), "\x1b[1m\x1b[33mname\x1b[0m\ta\n");
        assert_eq!(layout("\x1b[2J\x1b]0;x\x07\r\u{202e}\n"), "\\033[2J\\033]0;x\\007\\015\\342\\200\\256\n");
        assert_eq!(layout("\x1b[1"), "\\033[1");
    }
}
