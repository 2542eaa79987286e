//! `memtrace info`: how a recording was made, and how much of it can be read.
//!
//! Layer: top. Input: [`InfoArgs`]. Output: text or JSON on stdout.
//! Keeps: the whole file is read, so that damage anywhere is found; nothing is replayed.
//! Not here: what happened (`report`).

use std::{
    fmt::{self, Display, Formatter},
    io::Read,
    process::ExitCode,
};

use memtrace_ebpf::FaultEvent;
use serde_json::{Value, json};

use super::{args::InfoArgs, input};
use crate::{
    decode::Frame,
    event::FaultCounts,
    pipeline::Detail,
    record::{End, FORMAT_VERSION, Header, RecordError, Recording, Recovery},
    units::{ByteSize, Printable},
};

pub(super) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let path = &args.input.file;
    let file = input::file(path)?;
    let bytes = file.metadata().map(|metadata| metadata.len()).ok();
    let mut recording = input::read(file, path)?;
    let symbols = recording.symbols().iter().map(|symbols| symbols.code.len() as u64).sum();
    let contents = Contents { symbols, ..Contents::of(&mut recording)? };
    let info = Info {
        bytes,
        header: recording.header(),
        contents,
        end: recording.end(),
        recovery: recording.recovery(),
    };
    super::print(args.json.then(|| info.to_json()), &info)?;
    Ok(super::done(contents.losses == 0, args.input.strict))
}

/// Version of the JSON; changes when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

/// How many frames of each sort there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Fault records, in any number of frames.
    faults: u64,
    /// Bytes of task and map records.
    control_bytes: u64,
    /// Bytes of records of perf.
    side_band_bytes: u64,
    readings: u64,
    scans: u64,
    /// Losses that were recorded, and gaps of the recording itself.
    losses: u64,
    /// Places in code that have names.
    symbols: u64,
}

impl Contents {
    fn of<R: Read>(recording: &mut Recording<R>) -> Result<Self, RecordError> {
        let mut contents = Self::default();
        while let Some(frame) = recording.next_frame()? {
            match frame {
                Frame::Faults(bytes) => contents.faults += (bytes.len() / FaultEvent::LEN) as u64,
                Frame::Control(bytes) => contents.control_bytes += bytes.len() as u64,
                Frame::SideBand(bytes) => contents.side_band_bytes += bytes.len() as u64,
                Frame::Heat(_) => contents.readings += 1,
                Frame::Observation(_) => contents.scans += 1,
                Frame::Loss(_) => contents.losses += 1,
                Frame::Reclaim(_) | Frame::Tick(_) => {}
            }
        }
        Ok(contents)
    }
}

/// All there is to say.
struct Info<'a> {
    bytes: Option<u64>,
    header: &'a Header,
    contents: Contents,
    end: Option<&'a End>,
    recovery: Recovery,
}

impl Info<'_> {
    fn to_json(&self) -> Value {
        let Header { memtrace_version, host, capture, features, page_era } = self.header;
        let Contents { faults, control_bytes, side_band_bytes, readings, scans, losses, symbols } =
            self.contents;
        let start = host.start.as_nanos();
        json!({
            "schema": SCHEMA,
            "bytes": self.bytes,
            "format": FORMAT_VERSION,
            "memtrace_version": memtrace_version,
            "start_boottime_ns": start,
            "start_realtime_ns": start.checked_add_signed(host.realtime_offset_ns),
            "host": {
                "kernel_release": host.kernel_release,
                "arch": host.arch,
                "cpus": host.cpus,
                "page_bytes": host.page.bytes(),
            },
            "capture": {
                "command": capture.command,
                "target": capture.targets,
                "detail": match capture.detail {
                    Detail::Full => "full",
                    Detail::Counts => "counts",
                },
                "interval_ns": capture.interval.get(),
                "ring_bytes": capture.ring_bytes,
                "follow_forks": capture.follow_forks,
                "follows_maps": capture.follows_maps,
                "gate": capture.gate.map(|FaultCounts { minor, major }| json!({ "minor": minor, "major": major })),
            },
            "features": features,
            "page_era": page_era,
            "contents": {
                "faults": faults,
                "control_bytes": control_bytes,
                "side_band_bytes": side_band_bytes,
                "heat_readings": readings,
                "observations": scans,
                "losses": losses,
                "symbols": symbols,
            },
            "end": self.end,
            "recovery": self.recovery,
        })
    }
}

impl Display for Info<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Header { memtrace_version, host, capture, features, page_era } = self.header;
        let Contents { faults, control_bytes, side_band_bytes, readings, scans, losses, symbols } =
            self.contents;
        let mut row = |label: &str, value: String| writeln!(f, "{label:<12}{value}");
        row("target", Printable::new(&capture.to_string()).to_string())?;
        row("recorder", format!("memtrace {}, format {FORMAT_VERSION}", Printable::new(memtrace_version)))?;
        let page = ByteSize::new(host.page.bytes());
        row(
            "host",
            format!(
                "Linux {}, {}, {} CPUs, pages of {page}",
                Printable::new(&host.kernel_release),
                Printable::new(&host.arch),
                host.cpus
            ),
        )?;
        let detail = match capture.detail {
            Detail::Full => "each fault",
            Detail::Counts => "counts alone",
        };
        let forks = if capture.follow_forks { "with children" } else { "without children" };
        let ring = ByteSize::new(capture.ring_bytes);
        row("capture", format!("{detail}, {forks}, intervals of {}, ring of {ring}", capture.interval))?;
        row("faults", faults.to_string())?;
        row("tasks", format!("{control_bytes} bytes of task and map records"))?;
        row("VMAs", format!("{side_band_bytes} bytes of records of perf"))?;
        row("heat", format!("{readings} readings"))?;
        row("observed", format!("{scans} scans of pages and readings of maps"))?;
        if symbols > 0 {
            row("symbols", format!("{symbols} places in code have names"))?;
        }
        row("losses", losses.to_string())?;
        row(
            "end",
            self.end.map_or("no end mark: the recorder was stopped from outside".to_owned(), End::to_string),
        )?;
        let Recovery { chunks_good, chunks_lost, bytes_lost, complete } = self.recovery;
        let whole = if complete { "whole" } else { "damaged" };
        row(
            "file",
            match self.bytes {
                Some(bytes) => format!("{whole}, {bytes} bytes, {chunks_good} chunks"),
                None => format!("{whole}, {chunks_good} chunks"),
            },
        )?;
        if !complete {
            row(
                "recovery",
                format!("{chunks_good} chunks read, {chunks_lost} stretches of {bytes_lost} bytes lost"),
            )?;
        }
        if let Some(era) = page_era {
            row("page words", era.to_string())?;
        }
        for feature in features {
            row("feature", Printable::new(&format!("{:<21}{}", feature.name, feature.state)).to_string())?;
        }
        Ok(())
    }
}
