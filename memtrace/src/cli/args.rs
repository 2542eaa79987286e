//! What was typed, and the help for it.
//!
//! Layer: top. Input: arguments. Output: [`Cli`].
//! Keeps: parsing touches nothing on the system.
//! Not here: what arguments mean (the verbs' own modules).

#[cfg(feature = "live")]
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{
    Args, ColorChoice, CommandFactory as _, Parser, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};

use super::report::ReportArgs;
#[cfg(feature = "live")]
use super::{record::RecordArgs, snapshot::SnapshotArgs};
use crate::{
    export::{ColumnHead, FORMATS, Format, TABLES, Table, WEIGHTS, Weight},
    units::{Nanos, TimeRange},
};

/// Records every page fault and every change of an address space, and what the kernel gave for it
#[derive(Debug, Parser)]
#[command(name = "memtrace", version, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  memtrace -- ls -lR /usr                   record a command into memtrace.mtrace
  memtrace report                           say what happened
  memtrace export -f csv                    write the timeline as CSV")]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,

    #[command(subcommand)]
    verb: Option<Verb>,

    /// Command to record: short for `memtrace record -- CMD`
    #[cfg(feature = "live")]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Cli {
    /// The verb that was typed or is meant.
    pub(super) fn into_verb(self) -> Result<Verb, clap::Error> {
        #[cfg(feature = "live")]
        if self.verb.is_none() && !self.command.is_empty() {
            let meant = ["memtrace", "record", "--"].map(OsString::from);
            return Self::try_parse_from(meant.into_iter().chain(self.command))?.into_verb();
        }
        let missing = "a verb is needed: see memtrace --help";
        let verb = self.verb.ok_or_else(|| Self::command().error(ErrorKind::MissingSubcommand, missing))?;
        if let Verb::Report(args) = &verb {
            args.check().map_err(|error| Self::command().error(ErrorKind::ValueValidation, error))?;
        }
        Ok(verb)
    }
}

/// Options of every verb.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct GlobalArgs {
    /// Colour; auto follows the terminal and the environment
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub(super) color: ColorChoice,

    /// Say less
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Say more; twice for more still
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[cfg(feature = "live")]
    Record(RecordArgs),
    Report(ReportArgs),
    Export(ExportArgs),
    Info(InfoArgs),
    #[cfg(feature = "live")]
    Snapshot(Box<SnapshotArgs>),
    #[cfg(feature = "live")]
    Symbolize(SymbolizeArgs),
    #[cfg(feature = "live")]
    Doctor(DoctorArgs),
}

/// A recording to read.
#[derive(Args, Debug)]
pub(super) struct InputArgs {
    /// Recording to read; `-` is stdin, of which what comes through a pipe is kept in memory
    #[arg(value_name = "FILE", default_value = "memtrace.mtrace")]
    pub(super) file: PathBuf,

    /// Exit with 3 if the recording has losses
    #[arg(long)]
    pub(super) strict: bool,
}

/// Which faults are meant, by time.
#[derive(Args, Debug)]
pub(super) struct TimeArgs {
    /// Only faults that completed so long after the start of the recording, or later
    #[arg(long, value_name = "TIME", help_heading = "Selection")]
    from: Option<Nanos>,

    /// Only faults that completed before that
    #[arg(long, value_name = "TIME", help_heading = "Selection")]
    to: Option<Nanos>,
}

impl TimeArgs {
    /// What makes no sense together, if anything does.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from >= to => {
                Err(format!("no time lies between --from {from} and --to {to}: --to must be later"))
            }
            _ => Ok(()),
        }
    }

    /// The part of the recording that is meant.
    pub(super) const fn times(&self) -> TimeRange {
        TimeRange { from: self.from, to: self.to }
    }
}

/// Write a table of a recording, or the stacks of its faults, in a common format
#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES, after_long_help = export_details())]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// Format
    #[arg(short, long, value_name = "FORMAT", value_parser = formats(), help_heading = "Output")]
    pub(super) format: &'static Format,

    /// Table, in csv [default: timeline]
    #[arg(long, value_name = "TABLE", value_parser = tables(), help_heading = "Output")]
    pub(super) table: Option<&'static Table>,

    /// What stacks are weighed by, in folded; what pprof shows first [default: stall]
    #[arg(long, value_name = "WEIGHT", value_parser = weights(), help_heading = "Output")]
    pub(super) weight: Option<&'static Weight>,

    #[command(flatten)]
    pub(super) times: TimeArgs,

    /// File to write; `-` is stdout
    #[arg(short, long, value_name = "OUT", default_value = "-", help_heading = "Output")]
    pub(super) output: PathBuf,
}

/// Takes the name of a format.
fn formats() -> impl TypedValueParser<Value = &'static Format> {
    one_of(FORMATS, |format| (format.name, format.doc))
}

/// Takes the name of a table.
fn tables() -> impl TypedValueParser<Value = &'static Table> {
    one_of(TABLES, |table| (table.name, table.doc))
}

/// Takes the name of a weight.
fn weights() -> impl TypedValueParser<Value = &'static Weight> {
    one_of(WEIGHTS, |weight| (weight.name, weight.doc))
}

/// Takes the name of one of `all`, of which `describe` returns name and help.
pub(super) fn one_of<T: Sync>(
    all: &'static [&'static T],
    describe: fn(&T) -> (&'static str, &'static str),
) -> impl TypedValueParser<Value = &'static T> {
    let described = all.iter().map(|one| describe(one));
    PossibleValuesParser::new(described.map(|(name, help)| PossibleValue::new(name).help(help))).map(
        move |typed| all.iter().copied().find(|one| describe(one).0 == typed).expect("only these names pass"),
    )
}

/// Say how a recording was made, and how much of it can be read
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  memtrace info                             of memtrace.mtrace, for people
  memtrace info ci.mtrace --json            for programs, with the origins of its times
  memtrace info ci.mtrace --strict          exit with 3 if anything was lost")]
pub(super) struct InfoArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

/// Add names of functions to a recording, from files on this machine with the same build IDs
#[cfg(feature = "live")]
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  memtrace symbolize memtrace.mtrace                      after a debug package was installed
  memtrace symbolize a.mtrace --debug-dir ~/debug         files as ~/debug/.build-id/ab/cdef.debug")]
pub(super) struct SymbolizeArgs {
    /// Recording that names are added to
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,

    /// Search debug information here too, before /usr/lib/debug
    #[arg(long = "debug-dir", value_name = "DIR")]
    pub(super) debug_dirs: Vec<PathBuf>,
}

/// Say what this host can record, what is missing, and the line that fixes it
#[cfg(feature = "live")]
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  memtrace doctor                           for people
  memtrace doctor --json                    for programs
  sudo memtrace doctor                      what root can do here")]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  memtrace export -f csv                                    the timeline of memtrace.mtrace on stdout
  memtrace export server.mtrace -f csv -o timeline.csv      into a file
  memtrace export server.mtrace -f csv --table faults       every fault
  memtrace export server.mtrace -f csv --table maps         every change of an address space
  memtrace export server.mtrace -f folded | flamegraph.pl --countname ns > stall.svg
  memtrace export server.mtrace -f folded --weight faults   count faults instead of adding up their stall
  memtrace export server.mtrace -f folded --weight resident --from 10s --to 60s
                                                            what came in that time and was there at its end
  memtrace export server.mtrace -f pprof -o faults.pb.gz    all weights, for pprof, speedscope and others
  zstdcat old.mtrace.zst | memtrace export - -f csv         from stdin";

/// The columns of every table, then the examples.
fn export_details() -> String {
    let tables: String = TABLES.iter().map(|table| columns_of(table)).collect();
    let note = "Times are nanoseconds since the start of the recording; what is unknown is an empty field.";
    format!("{tables}{note}\n\n{EXPORT_EXAMPLES}")
}

/// The names of the columns of `table`, and what they mean.
fn columns_of(table: &Table) -> String {
    let width = table.columns().map(|column| column.name.len()).max().unwrap_or(0);
    let line = |column: &ColumnHead| format!("  {:<width$} {}\n", column.name, column.doc);
    let lines: String = table.columns().map(line).collect();
    format!("Columns of {}:\n{lines}\n", table.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).and_then(Cli::into_verb)
    }

    fn export(line: &str) -> ExportArgs {
        match parse(line) {
            Ok(Verb::Export(args)) => args,
            other => panic!("not an export: {other:?}"),
        }
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn export_writes_the_timeline_to_stdout_unless_told_otherwise() {
        let args = export("memtrace export x.mtrace -f csv");

        assert!(args.table.is_none() && args.weight.is_none());
        assert_eq!(args.output, PathBuf::from("-"));
        assert!(!args.input.strict);
    }

    #[test]
    fn export_takes_a_table_and_a_file() {
        let args = export("memtrace export --table losses -o out.csv --strict -f csv x.mtrace");

        assert_eq!(args.input.file, PathBuf::from("x.mtrace"));
        assert_eq!(args.table.map(|table| table.name), Some("losses"));
        assert_eq!(args.output, PathBuf::from("out.csv"));
        assert!(args.input.strict);
    }

    #[test]
    fn export_needs_a_format_that_there_is() {
        let kind = |line| parse(line).map(drop).map_err(|error| error.kind());

        assert_eq!(kind("memtrace export x"), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(kind("memtrace export x -f xml"), Err(ErrorKind::InvalidValue));
    }

    #[test]
    fn global_options_stand_on_either_side_of_the_verb() {
        for line in ["memtrace --color never -vv report x", "memtrace report x --color never -vv"] {
            let cli = Cli::try_parse_from(line.split_whitespace()).expect("both are right");

            assert_eq!(cli.global.color, ColorChoice::Never);
            assert_eq!(cli.global.verbose, 2);
        }
    }

    #[test]
    fn quiet_and_verbose_exclude_each_other() {
        let error = parse("memtrace report x -q -v").expect_err("they contradict");

        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn options_alone_are_no_verb() {
        let error = parse("memtrace -q").expect_err("there is nothing to do");

        assert_eq!(error.kind(), ErrorKind::MissingSubcommand);
    }

    /// What `record` makes of `line`, as `{:?}` prints it.
    #[cfg(feature = "live")]
    fn record(line: &str) -> String {
        match parse(line) {
            Ok(Verb::Record(args)) => format!("{args:?}"),
            other => panic!("not a recording: {other:?}"),
        }
    }

    #[cfg(feature = "live")]
    #[test]
    fn a_command_alone_is_recorded() {
        let args = record("memtrace -q -- ls report --json");

        assert!(args.contains(r#"command: ["ls", "report", "--json"]"#), "{args}");
    }

    #[cfg(feature = "live")]
    #[test]
    fn arguments_of_the_command_are_its_own() {
        let args = record("memtrace record -o x -- ls -o y");

        assert!(args.contains(r#"output: Some("x")"#), "{args}");
        assert!(args.contains(r#"command: ["ls", "-o", "y"]"#), "{args}");
    }
}
