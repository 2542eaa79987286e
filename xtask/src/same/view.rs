//! What a build can be asked about a recording.
//!
//! Input: the help of builds. Output: [`View`]s.
//! Keeps: formats and tables are those that the builds themselves offer, so none is forgotten.

use std::fmt::{self, Display, Formatter};

/// Verbs that say what a recording holds, beside `export`.
const REPORTS: [&[&str]; 4] = [&["info"], &["info", "--json"], &["report"], &["report", "--json"]];

/// A verb with its options; what is left to add is the recording.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    /// What is typed after the name of the program.
    pub(super) words: Vec<String>,
}

/// What stdout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Csv,
    Json,
    /// For people, or unknown.
    Text,
}

impl View {
    pub(super) fn new(words: &[&str]) -> Self {
        Self { words: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    pub(super) fn form(&self) -> Form {
        let has = |word: &str| self.words.iter().any(|other| other == word);
        if has("csv") {
            Form::Csv
        } else if has("--json") {
            Form::Json
        } else {
            Form::Text
        }
    }
}

impl Display for View {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// What `export` of a build can write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    formats: Vec<String>,
    tables: Vec<String>,
}

impl Offer {
    /// Reads the short help of `export`; `None` if it names no formats or no tables.
    pub(super) fn parse(help: &str) -> Option<Self> {
        let values = |option: &str| -> Option<Vec<String>> {
            // The last one: a line on usage may have it too.
            let (_, text) = help.rsplit_once(&format!("--{option} <"))?;
            let (_, text) = text.split_once("[possible values: ")?;
            let (values, _) = text.split_once(']')?;
            Some(values.split(',').map(|value| value.trim().to_owned()).collect())
        };
        Some(Self { formats: values("format")?, tables: values("table")? })
    }
}

/// What both builds can be asked, and in words what only one of them can be.
pub(super) fn of_both(old: &Offer, new: &Offer) -> (Vec<View>, Vec<String>) {
    let mut differences = Vec::new();
    let mut common = |what: &str, old: &[String], new: &[String]| -> Vec<String> {
        for (which, values, other) in [("OLD", old, new), ("NEW", new, old)] {
            let alone = values.iter().filter(|value| !other.contains(value));
            differences.extend(alone.map(|value| format!("{what} {value}: only {which} has it")));
        }
        old.iter().filter(|value| new.contains(value)).cloned().collect()
    };
    let formats = common("format", &old.formats, &new.formats);
    let tables = common("table", &old.tables, &new.tables);
    let mut views: Vec<_> = REPORTS.iter().map(|words| View::new(words)).collect();
    for format in &formats {
        views.extend(tables.iter().map(|table| View::new(&["export", "-f", format, "--table", table])));
    }
    (views, differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(formats: &[&str], tables: &[&str]) -> Offer {
        let [formats, tables] =
            [formats, tables].map(|values| values.iter().map(|value| (*value).to_owned()).collect());
        Offer { formats, tables }
    }

    #[test]
    fn formats_and_tables_are_read_from_the_help() {
        let help = "Usage: memtrace export [OPTIONS] --format <FORMAT> <FILE>
      --color <WHEN>  Colour [default: auto] [possible values: auto, always, never]
  -f, --format <FORMAT>  Format [possible values: csv]
      --table <TABLE>    Table [default: timeline] [possible values: timeline, faults, maps,
                         regions]
  -o, --output <OUT>     File to write";

        assert_eq!(Offer::parse(help), Some(offer(&["csv"], &["timeline", "faults", "maps", "regions"])));
        assert_eq!(Offer::parse("Usage: memtrace export"), None);
    }

    #[test]
    fn table_of_one_build_alone_is_a_difference() {
        let (old, new) = (offer(&["csv"], &["maps", "heat"]), offer(&["csv"], &["maps", "pages"]));
        let (views, differences) = of_both(&old, &new);

        let words: Vec<_> = views.iter().map(View::to_string).collect();
        assert_eq!(words, ["info", "info --json", "report", "report --json", "export -f csv --table maps"]);
        assert_eq!(differences, ["table heat: only OLD has it", "table pages: only NEW has it"]);
    }
}
