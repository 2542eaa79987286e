//! The command line: what was typed, what it calls, and how it ends.
//!
//! Layer: top. Input: arguments. Output: calls into the library; text; an exit code.
//! Keeps: only data goes to stdout; every failure is one line on stderr; no text from outside reaches a terminal but as
//! [`Printable`]; a reader that has gone is no failure.
//! Not here: anything that is not about people typing (`session`, `report`, `export`).

use std::{
    error::Error,
    ffi::OsString,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{ColorChoice, CommandFactory as _, Parser as _, error::ErrorKind};

#[cfg(feature = "live")]
use crate::sys::{
    heap,
    limits::{self, Shortage},
    signals,
};
use crate::units::Printable;

mod args;
#[cfg(feature = "live")]
mod doctor;
mod export;
mod fifo;
mod info;
mod input;
mod output;
#[cfg(feature = "live")]
mod record;
mod report;
#[cfg(feature = "live")]
mod snapshot;
mod streams;
#[cfg(feature = "live")]
mod symbolize;

use args::{Cli, GlobalArgs, Verb};

/// Exit code of a failure.
const FAILURE: u8 = 1;
/// Exit code of arguments that make no sense.
const USAGE: u8 = 2;
/// Exit code of a read command that met losses under `--strict`.
const LOSSES: u8 = 3;

/// Runs memtrace with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "live")]
    if let Some((verb, rest)) = typed.get(1..).and_then(<[_]>::split_first)
        && verb == crate::session::launch::VERB
    {
        // Returns only if the command cannot start; whoever launched it has been told why.
        let _told = crate::session::launch::launch(rest);
        return ExitCode::from(FAILURE);
    }
    #[cfg(feature = "live")]
    if let Some((verb, [level])) = typed.get(1..).and_then(<[_]>::split_first)
        && verb == crate::session::keeper::VERB
    {
        start_log(level.to_str().and_then(|level| level.parse().ok()).unwrap_or(log::LevelFilter::Warn));
        // If memtrace is gone, nobody is left to tell.
        let _gone = crate::session::keeper::keep();
        return ExitCode::SUCCESS;
    }
    let parsed = Cli::try_parse_from(&typed).and_then(|cli| Ok((cli.global, cli.into_verb()?)));
    let (global, verb) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = if error.use_stderr() { usage_code(&typed) } else { 0 };
            let text = explain(error, &typed).render().ansi().to_string();
            let text = Printable::layout(&text);
            // Nobody is left to tell if this cannot be printed.
            let _gone = match code {
                0 => write!(anstream::stdout(), "{text}"),
                _ => write!(anstream::stderr(), "{text}"),
            };
            return ExitCode::from(code);
        }
    };
    start_output(global);
    #[cfg(feature = "live")]
    prepare(&verb);
    match run(&verb, global) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) && is_for_its_reader(&verb) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(failure_code(&verb, &error))
        }
    }
}

#[cfg_attr(not(feature = "live"), expect(unused_variables, reason = "reading has nothing to say but data"))]
fn run(verb: &Verb, global: GlobalArgs) -> anyhow::Result<ExitCode> {
    match verb {
        #[cfg(feature = "live")]
        Verb::Record(args) => record::run(args, global.quiet, global.verbose > 0),
        Verb::Report(args) => report::run(args),
        Verb::Export(args) => export::run(args),
        Verb::Info(args) => info::run(args),
        #[cfg(feature = "live")]
        Verb::Snapshot(args) => snapshot::run(args),
        #[cfg(feature = "live")]
        Verb::Symbolize(args) => symbolize::run(args, global.quiet),
        #[cfg(feature = "live")]
        Verb::Doctor(args) => doctor::run(args.json),
    }
}

/// The exit code of a failure: one that no traced command has, for `record`.
fn failure_code(verb: &Verb, error: &anyhow::Error) -> u8 {
    match verb {
        #[cfg(feature = "live")]
        Verb::Snapshot(_) if error.is::<snapshot::UsageError>() => USAGE,
        Verb::Export(_) if error.is::<export::UsageError>() => USAGE,
        verb => own_failure(verb),
    }
}

/// The exit code of a failure that is not one of usage.
fn own_failure(verb: &Verb) -> u8 {
    match verb {
        #[cfg(feature = "live")]
        Verb::Record(_) => record::FAILURE,
        #[cfg(feature = "live")]
        Verb::Doctor(_) | Verb::Snapshot(_) | Verb::Symbolize(_) => FAILURE,
        Verb::Report(_) | Verb::Export(_) | Verb::Info(_) => FAILURE,
    }
}

/// The exit code of arguments that could not be parsed: it depends on the verb among them.
fn usage_code(typed: &[OsString]) -> u8 {
    let cli = Cli::command();
    let verb = typed.iter().skip(1).find(|arg| *arg == "--" || cli.find_subcommand(arg).is_some());
    match verb {
        #[cfg(feature = "live")]
        Some(verb) if verb == "--" || verb == "record" => record::FAILURE,
        _ => USAGE,
    }
}

/// The error itself, or a better one where the verb that records, or `--` before a command, is missing.
fn explain(error: clap::Error, typed: &[OsString]) -> clap::Error {
    let words: Vec<_> = typed.iter().skip(1).map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    let options = words.iter().position(|word| word == "--").map(|end| &words[..end]);
    let (kind, message) = match words.first() {
        Some(word) if !word.starts_with('-') && !is_verb(word) => (
            ErrorKind::InvalidSubcommand,
            format!("no verb '{word}'; to record a command: memtrace -- {line}"),
        ),
        _ if error.kind() == ErrorKind::UnknownArgument
            && options.is_some_and(|options| !options.iter().any(|word| is_verb(word))) =>
        {
            (ErrorKind::UnknownArgument, format!("options stand behind a verb: memtrace record {line}"))
        }
        _ => return error,
    };
    Cli::command().error(kind, message)
}

/// Whether `word` is a verb, `help` among them.
fn is_verb(word: &str) -> bool {
    let mut cli = Cli::command();
    // Only now it has `help`.
    cli.build();
    cli.find_subcommand(word).is_some()
}

/// Prints `error`, its causes and the limit that stands in the way, if one does, in one line on stderr; causes that are made of
/// lines stay so.
fn complain(error: &anyhow::Error) {
    let causes = error.chain().map(|cause| {
        let text = cause.to_string();
        let text = if has_lines(cause) { Printable::layout(&text) } else { Printable::new(&text) };
        text.to_string()
    });
    let line = causes.collect::<Vec<_>>().join(": ");
    #[cfg(feature = "live")]
    let limit = shortage(error).map_or_else(String::new, |shortage| format!("; {shortage}"));
    #[cfg(not(feature = "live"))]
    let limit = "";
    // Nobody is left to tell if this cannot be printed.
    let _gone = writeln!(anstream::stderr(), "memtrace: {line}{limit}");
}

/// Whether `cause` is the log of the kernel's verifier, or shows the place of a mistake below a text that was typed.
#[cfg_attr(not(feature = "live"), expect(unused_variables, reason = "reading fails in single lines"))]
fn has_lines(cause: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "live")]
    return cause.is::<crate::live::VerifierLog>() || cause.is::<snapshot::UsageError>();
    #[cfg(not(feature = "live"))]
    false
}

/// The limit of this process that led to `error`, if one did.
#[cfg(feature = "live")]
fn shortage(error: &anyhow::Error) -> Option<Shortage> {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    causes.find_map(Shortage::behind)
}

/// Makes this process able to do what `verb` takes, as far as that is ours to decide.
#[cfg(feature = "live")]
fn prepare(verb: &Verb) {
    heap::fail_with(own_failure(verb));
    limits::raise();
    // A file that grows beyond the limit is an error of the call that writes.
    signals::ignore(libc::SIGXFSZ);
}

/// Whether what `verb` writes serves its reader alone. A recording is for later, and not whole if its reader has gone.
fn is_for_its_reader(verb: &Verb) -> bool {
    match verb {
        #[cfg(feature = "live")]
        Verb::Record(_) => false,
        #[cfg(feature = "live")]
        Verb::Doctor(_) | Verb::Snapshot(_) | Verb::Symbolize(_) => true,
        Verb::Report(_) | Verb::Export(_) | Verb::Info(_) => true,
    }
}

/// Whether `error` says that the reader of our output has gone.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_it = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_it)
}

/// Decides on colour, and on what is logged.
fn start_output(global: GlobalArgs) {
    let color = match global.color {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    color.write_global();
    let level = match (global.quiet, global.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, _) => log::LevelFilter::Debug,
    };
    start_log(level);
}

/// Sends what parts of memtrace log to stderr in the form of its other lines.
fn start_log(level: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level.min(log::LevelFilter::Warn))
        .filter_module("memtrace", level)
        .format(|out, record| writeln!(out, "memtrace: {}", Printable::new(&record.args().to_string())))
        .init();
}

/// Prints what a read command found on stdout: the JSON if it is wanted, else the text.
fn print(json: Option<serde_json::Value>, text: &dyn Display) -> anyhow::Result<()> {
    let written = match json {
        // As it is: to leave out styles is to change names.
        Some(json) => writeln!(io::stdout(), "{json:#}"),
        None => write!(anstream::stdout(), "{}", Printable::layout(&text.to_string())),
    };
    written.context("cannot write to stdout")
}

/// The exit code of a read command that did what it was asked to.
fn done(complete: bool, strict: bool) -> ExitCode {
    ExitCode::from(if strict && !complete { LOSSES } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn usage_of_read_verbs_is_two() {
        assert_eq!(usage_code(&typed("memtrace report")), 2);
        assert_eq!(usage_code(&typed("memtrace --color always export x")), 2);
        assert_eq!(usage_code(&typed("memtrace nonsense")), 2);
    }

    #[cfg(feature = "live")]
    #[test]
    fn usage_of_record_is_no_code_of_a_command() {
        assert_eq!(usage_code(&typed("memtrace record --bogus")), 125);
        assert_eq!(usage_code(&typed("memtrace -x -- report")), 125);
    }

    #[test]
    fn a_reader_that_has_gone_is_found_in_the_chain() {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let full = io::Error::from(io::ErrorKind::StorageFull);

        assert!(is_broken_pipe(&crate::export::ExportError::Write(gone()).into()));
        assert!(is_broken_pipe(&anyhow::Error::new(gone()).context("cannot print")));
        assert!(!is_broken_pipe(&crate::export::ExportError::Write(full).into()));
    }
}
