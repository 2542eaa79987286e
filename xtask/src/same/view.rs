//! What a build can be asked about a recording.
//!
//! Input: the help of builds. Output: [`View`]s.
//! Keeps: formats, tables and weights are those that the builds themselves offer, so none is forgotten.

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
    /// For programs that know it.
    Bytes,
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
        } else if has("pprof") {
            Form::Bytes
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
    /// What stacks can be weighed by; none if no format is of stacks.
    weights: Vec<String>,
    /// Formats that are of stacks, and not of a table.
    of_stacks: Vec<String>,
}

impl Offer {
    /// Reads the short help of `export`; `None` if it names no formats or no tables. It does not say which formats are `of_stacks`.
    pub(super) fn parse(help: &str, of_stacks: impl Fn(&str) -> bool) -> Option<Self> {
        let values = |option: &str| -> Option<Vec<String>> {
            // The last one: a line on usage may have it too.
            let (_, text) = help.rsplit_once(&format!("--{option} <"))?;
            let (_, text) = text.split_once("[possible values: ")?;
            let (values, _) = text.split_once(']')?;
            Some(values.split(',').map(|value| value.trim().to_owned()).collect())
        };
        let formats = values("format")?;
        let of_stacks = formats.iter().filter(|format| of_stacks(format)).cloned().collect();
        Some(Self {
            tables: values("table")?,
            weights: values("weight").unwrap_or_default(),
            of_stacks,
            formats,
        })
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
    let weights = common("weight", &old.weights, &new.weights);
    let of_stacks = common("format of stacks", &old.of_stacks, &new.of_stacks);
    let mut views: Vec<_> = REPORTS.iter().map(|words| View::new(words)).collect();
    for format in &formats {
        let (option, values) =
            if of_stacks.contains(format) { ("--weight", &weights) } else { ("--table", &tables) };
        views.extend(values.iter().map(|value| View::new(&["export", "-f", format, option, value])));
    }
    (views, differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(formats: &[&str], tables: &[&str]) -> Offer {
        let [formats, tables] =
            [formats, tables].map(|values| values.iter().map(|value| (*value).to_owned()).collect());
        Offer { formats, tables, weights: Vec::new(), of_stacks: Vec::new() }
    }

    #[test]
    fn formats_and_tables_are_read_from_the_help() {
        let help = "Usage: memtrace export [OPTIONS] --format <FORMAT> <FILE>
      --color <WHEN>  Colour [default: auto] [possible values: auto, always, never]
  -f, --format <FORMAT>  Format [possible values: csv, folded]
      --table <TABLE>    Table [default: timeline] [possible values: timeline, faults, maps,
                         regions]
      --weight <WEIGHT>  What stacks are weighed by [possible values: faults, stall]
  -o, --output <OUT>     File to write";
        let [weights, of_stacks] = [&["faults", "stall"][..], &["folded"]]
            .map(|words| words.iter().map(ToString::to_string).collect());
        let expected = offer(&["csv", "folded"], &["timeline", "faults", "maps", "regions"]);

        let parsed = Offer::parse(help, |format| format == "folded");
        assert_eq!(parsed, Some(Offer { weights, of_stacks, ..expected }));
        assert_eq!(Offer::parse("Usage: memtrace export", |_| false), None);
    }

    #[test]
    fn table_of_one_build_alone_is_a_difference() {
        let (old, new) = (offer(&["csv"], &["maps", "heat"]), offer(&["csv"], &["maps", "pages"]));
        let (views, differences) = of_both(&old, &new);

        let words: Vec<_> = views.iter().map(View::to_string).collect();
        assert_eq!(words, ["info", "info --json", "report", "report --json", "export -f csv --table maps"]);
        assert_eq!(differences, ["table heat: only OLD has it", "table pages: only NEW has it"]);
    }

    #[test]
    fn format_of_stacks_is_asked_for_each_weight() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let offer = || Offer {
            weights: words(&["faults", "stall"]),
            of_stacks: words(&["folded"]),
            ..offer(&["csv", "folded"], &["maps"])
        };
        let (views, differences) = of_both(&offer(), &offer());

        let words: Vec<_> = views.iter().skip(REPORTS.len()).map(View::to_string).collect();
        let expected = [
            "export -f csv --table maps",
            "export -f folded --weight faults",
            "export -f folded --weight stall",
        ];
        assert_eq!((words, differences), (expected.map(str::to_owned).to_vec(), Vec::new()));
    }
}
