//! `memtrace report`: what a recording says, on stdout.
//!
//! Layer: top. Input: [`ReportArgs`]. Output: text or JSON.
//! Keeps: exit code 3 for losses only under `--strict`; what selects faults is refused where it would select nothing.
//! Not here: what the report says (`report`).

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, builder::TypedValueParser};

use super::{
    args::{InputArgs, TimeArgs, one_of},
    input,
};
use crate::{
    event::Tgid,
    pipeline::Detail,
    report::{GroupReport, Grouping, KEYS, Key, ORDERS, Order, Report},
    units::TimeRange,
};

/// Groups that are shown where nothing else is asked for.
const SHOWN: usize = 15;

/// Say what a recording holds: totals, latencies, losses, hottest regions, who maps what; or sum up its faults by what they have in
/// common
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  memtrace report                           what memtrace.mtrace says, for people
  memtrace report --json server.mtrace      for programs
  ssh host cat x.mtrace | memtrace report - from stdin
  memtrace report ci.mtrace --strict        exit with 3 if anything was lost
  memtrace report --by process make.mtrace  faults and stall by name of the process: 60 compilers are one line
  memtrace report --by library,function --top 30 server.mtrace
  memtrace report --by file,outcome --pid 4242 --from 10s --to 12s server.mtrace")]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,

    /// Print completed faults by what they have in common (KEY,KEY…), and nothing else
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = keys(), help_heading = "Groups")]
    by: Vec<&'static Key>,

    /// What stands first
    #[arg(long, value_name = "ORDER", value_parser = orders(), requires = "by", help_heading = "Groups")]
    sort: Option<&'static Order>,

    /// Print so many groups, and what the others add up to; 15 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "by", help_heading = "Groups")]
    top: Option<u32>,

    /// Print all groups
    #[arg(long, requires = "by", conflicts_with = "top", help_heading = "Groups")]
    all: bool,

    /// Only faults of these processes (PID,PID…)
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        value_delimiter = ',',
        requires = "by",
        help_heading = "Groups"
    )]
    pids: Vec<u32>,

    #[command(flatten)]
    times: TimeArgs,
}

/// Takes the name of a key.
fn keys() -> impl TypedValueParser<Value = &'static Key> {
    one_of(KEYS, |key| (key.name(), key.doc()))
}

/// Takes the name of an order.
fn orders() -> impl TypedValueParser<Value = &'static Order> {
    one_of(ORDERS, |order| (order.name(), order.doc()))
}

impl ReportArgs {
    /// What makes no sense together, if anything does.
    pub(super) fn check(&self) -> Result<(), String> {
        let again = self.by.iter().enumerate().find(|(index, key)| self.by[..*index].contains(*key));
        if let Some((_, key)) = again {
            return Err(format!("--by {} is there twice: name each key once", key.name()));
        }
        if self.by.is_empty() && self.times.times() != TimeRange::default() {
            return Err("--from and --to go with --by <KEY>: add --by function".to_owned());
        }
        self.times.check()
    }

    /// The groups that are wanted, if any are.
    fn grouping(&self) -> Option<Grouping> {
        let most = self.top.map_or(SHOWN, |top| usize::try_from(top).unwrap_or(usize::MAX));
        (!self.by.is_empty()).then(|| Grouping {
            by: self.by.iter().map(|key| **key).collect(),
            pids: self.pids.iter().copied().map(Tgid).collect(),
            times: self.times.times(),
            order: self.sort.copied().unwrap_or_default(),
            most: (!self.all).then_some(most),
        })
    }
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let mut recording = input::open(&args.input.file)?;
    let complete = if let Some(grouping) = args.grouping() {
        if recording.header().capture.detail == Detail::Counts {
            bail!(
                "{} has counts of faults alone, and nothing to group: record without --detail counts",
                args.input.file.display()
            );
        }
        let report = GroupReport::of(&mut recording, grouping)?;
        super::print(args.json.then(|| report.to_json()), &report)?;
        report.is_complete()
    } else {
        let report = Report::of(&mut recording)?;
        super::print(args.json.then(|| report.to_json()), &report)?;
        report.is_complete()
    };
    Ok(super::done(complete, args.input.strict))
}
