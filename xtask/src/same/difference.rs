//! Where two texts differ, in words.
//!
//! Input: what two builds wrote. Output: lines for people.
//! Keeps: every byte counts for lines; tables and JSON are taken apart only to say more.

use std::collections::BTreeSet;

use csv::ByteRecord;
use serde_json::Value;

/// How many of each sort are shown.
const SHOWN: usize = 3;

/// Characters of a line that are shown.
const WIDTH: usize = 400;

/// From which line on they differ, how many lines do, and the first of these. Between texts of unlike length, those are all up to the
/// lines at the end that both have.
pub(super) fn of_lines(old: &[u8], new: &[u8]) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (lines(old), lines(new));
    let first = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[first..], &new[first..]);
    let last = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (mut old, mut new) = (old[..old.len() - last].to_vec(), new[..new.len() - last].to_vec());
    if old.len() == new.len() {
        (old, new) = old.into_iter().zip(new).filter(|(old, new)| old != new).unzip();
    }
    let title = format!("from line {} on: {} lines of OLD, {} of NEW", first + 1, old.len(), new.len());
    let shown = [("OLD", &old), ("NEW", &new)].into_iter().flat_map(|(which, lines)| {
        lines.iter().take(SHOWN).map(move |line| format!("{which} {}", printable(line)))
    });
    std::iter::once(title).chain(shown).collect()
}

/// From which byte on they differ, and how many bytes there are.
pub(super) fn of_bytes(old: &[u8], new: &[u8]) -> Vec<String> {
    let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    vec![format!("from byte {} on: {} bytes of OLD, {} of NEW", first + 1, old.len(), new.len())]
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// One line, for a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\n').chars();
    text.take(WIDTH).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Which columns only one has; and if there are as many rows in both, in how many rows of which columns they differ.
pub(super) fn of_tables(old: &[u8], new: &[u8]) -> Vec<String> {
    let (Some((old_header, old_rows)), Some((new_header, new_rows))) = (table(old), table(new)) else {
        return Vec::new();
    };
    let index = |header: &ByteRecord, name: &[u8]| header.iter().position(|column| column == name);
    let mut found = Vec::new();
    for (which, header, other) in [("OLD", &old_header, &new_header), ("NEW", &new_header, &old_header)] {
        let alone = header.iter().filter(|name| index(other, name).is_none());
        found.extend(alone.map(|name| format!("column {}: only {which} has it", printable(name))));
    }
    if old_rows.len() != new_rows.len() {
        found.push(format!("{} rows in OLD, {} in NEW", old_rows.len(), new_rows.len()));
        return found;
    }
    for (old_index, name) in old_header.iter().enumerate() {
        let Some(new_index) = index(&new_header, name) else { continue };
        let pairs =
            old_rows.iter().zip(&new_rows).map(|(old, new)| (old, old.get(old_index), new.get(new_index)));
        let mut differing = pairs.filter(|(_, old, new)| old != new);
        let Some((row, old, new)) = differing.next() else { continue };
        let line = row.position().map_or(0, csv::Position::line);
        let [old, new] = [old, new].map(|field| printable(field.unwrap_or_default()));
        found.push(format!(
            "column {}: in {} of {} rows, first in line {line}: OLD {old:?}, NEW {new:?}",
            printable(name),
            1 + differing.count(),
            old_rows.len()
        ));
    }
    found
}

/// The header and the rows of a table.
fn table(text: &[u8]) -> Option<(ByteRecord, Vec<ByteRecord>)> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let header = reader.byte_headers().ok()?.clone();
    Some((header, reader.into_byte_records().collect::<Result<_, _>>().ok()?))
}

/// At which JSON pointers the values differ.
pub(super) fn of_json(old: &[u8], new: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if let (Ok(old), Ok(new)) = (serde_json::from_slice(old), serde_json::from_slice(new)) {
        descend("", Some(&old), Some(&new), &mut found);
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    found.extend((more > 0).then(|| format!("and {more} more")));
    found
}

/// Adds to `found` what differs at `pointer` or below it; what is `None` is not there.
fn descend(pointer: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<String>) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                descend(&format!("{pointer}/{key}"), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                descend(&format!("{pointer}/{index}"), old.get(index), new.get(index), found);
            }
        }
        _ if old == new => {}
        _ => {
            let [old, new] = [old, new].map(|value| {
                value.map_or("nothing".to_owned(), |value| printable(value.to_string().as_bytes()))
            });
            found.push(format!("{pointer}: OLD {old}, NEW {new}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_between_those_that_are_the_same_are_shown() {
        assert_eq!(
            of_lines(b"a\nb\nc\nd\n", b"a\nB\nC\nc\nd\n"),
            ["from line 2 on: 1 lines of OLD, 2 of NEW", "OLD b", "NEW B", "NEW C"]
        );
    }

    #[test]
    fn lines_that_are_the_same_in_texts_of_one_length_are_left_out() {
        assert_eq!(
            of_lines(b"a\nb\nc\n", b"A\nb\nC\n"),
            ["from line 1 on: 2 lines of OLD, 2 of NEW", "OLD a", "OLD c", "NEW A", "NEW C"]
        );
    }

    #[test]
    fn line_without_an_end_differs_from_one_with_it() {
        assert_eq!(of_lines(b"a\n", b"a"), ["from line 1 on: 1 lines of OLD, 1 of NEW", "OLD a", "NEW a"]);
    }

    #[test]
    fn control_characters_of_a_name_do_not_reach_the_terminal() {
        assert_eq!(of_lines(b"", b"\x1b[2J\n")[1], "NEW \u{fffd}[2J");
    }

    #[test]
    fn value_that_differs_is_found_by_its_column() {
        let old = b"pid,pages,name\n1,7,\"a\nb\"\n2,8,c\n2,9,c\n";
        let new = b"pid,pages,name\n1,7,\"a\nb\"\n2,9,c\n2,10,c\n";

        assert_eq!(
            of_tables(old, new),
            ["column pages: in 2 of 3 rows, first in line 4: OLD \"8\", NEW \"9\""]
        );
    }

    #[test]
    fn columns_are_compared_by_name() {
        let (old, new) = (b"gave,pages\nanon,1\n", b"pages,outcome\n2,anon\n");

        assert_eq!(
            of_tables(old, new),
            [
                "column gave: only OLD has it",
                "column outcome: only NEW has it",
                "column pages: in 1 of 1 rows, first in line 2: OLD \"1\", NEW \"2\"",
            ]
        );
    }

    #[test]
    fn tables_of_unlike_length_are_not_compared_by_column() {
        assert_eq!(of_tables(b"a\n1\n2\n", b"a\n2\n"), ["2 rows in OLD, 1 in NEW"]);
    }

    #[test]
    fn values_of_json_are_found_by_their_pointers() {
        let old = br#"{"faults":{"minor":3,"major":0},"processes":[{"tgid":1}]}"#;
        let new = br#"{"faults":{"minor":4,"major":0},"processes":[{"tgid":1},2],"x":null}"#;

        assert_eq!(
            of_json(old, new),
            ["/faults/minor: OLD 3, NEW 4", "/processes/1: OLD nothing, NEW 2", "/x: OLD nothing, NEW null",]
        );
    }

    #[test]
    fn pointers_beyond_the_first_few_are_counted() {
        assert_eq!(of_json(b"[1,2,3,4,5]", b"[0,0,0,0,0]")[2..], ["/2: OLD 3, NEW 0", "and 2 more"]);
    }
}
