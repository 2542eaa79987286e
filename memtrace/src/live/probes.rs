//! Loads the programs, arms them in an order that misses nothing, and disarms them.
//!
//! Layer: shell. Input: [`Plan`]. Output: [`Probes`], the rings, the mapped arrays.
//! Source: `memtrace_ebpf::names`; `perf_event_open(2)` for scope and inheritance.
//! Keeps: no bpf(2) element call while probes for faults are armed (such a call can make a completion
//! vanish on preemptible kernels); the object is the one that `build.rs` checked.
//! Not here: which tasks to trace (`tasks`), reading what comes out (`drain`, `heat`).

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use aya::{
    Btf, Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
    programs::{
        Iter, PerfEvent, Program, ProgramError, RawTracePoint, TracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy},
    },
};
use memtrace_ebpf::{CGROUP_PATH_MAX, Config, Counter, EVENT_RINGS, HeatCell, TaskState, names};

use super::{
    attach::{AttachError, failure, missing, os_error, refusal},
    cpus::CpuCompletions,
    heat,
    programs::{Attachable, Hook, Programs, Step},
    skips::SkipMeter,
    stacks::{self, RuleTable, rules},
    syscalls,
    tasks::InitialTids,
};
use crate::{
    host::LockArguments,
    sys::{
        memlock,
        shared::{SharedWords, WritableWords},
    },
};

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace.bpf.o"));

/// How the entry of a fault is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Raw tracepoints `page_fault_user` and `page_fault_kernel`.
    Tracepoints,
    /// Software event `page-faults`: no error code, so the kind of access is unknown.
    Software,
}

/// What the completion events are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// These threads and all that they will make.
    Threads(Vec<u32>),
    /// Everything that runs on these CPUs; the programs filter.
    Cpus(Vec<u32>),
}

/// What to load.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what sessions can have or not, independently")]
pub struct Plan {
    /// Constants for the programs; the sizes of arrays are filled in here.
    pub config: Config,
    /// Path of the traced cgroup; empty if there is none.
    pub cgroup_path: String,
    /// How the entry of a fault is seen.
    pub entry: Entry,
    /// How the kernel tells that a task locks a memory map and lets go of it; `None` if it does not.
    pub lock: Option<LockArguments>,
    /// Whether calls that change address spaces are followed.
    pub follows_maps: bool,
    /// Whether programs are at classic tracepoints, and read the records of these.
    pub from_records: bool,
    /// Size of all rings of faults together in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// CPUs that the kernel may bring up.
    pub possible_cpus: u32,
    /// Whether stacks are recorded.
    pub stacks: bool,
    /// Whether the programs may log.
    pub verbose: bool,
}

/// The loaded programs; dropping them detaches everything.
#[derive(Debug)]
pub struct Probes {
    ebpf: Ebpf,
    programs: Programs,
    follows_maps: bool,
    tells_duplicates: bool,
    /// Whether this PID namespace is not the initial one.
    translates_ids: bool,
    rings: &'static [&'static str],
    of_cpus: CpuCompletions,
}

/// Flag of `BPF_MAP_UPDATE_ELEM`: make a new element or fail.
const BPF_NOEXIST: u64 = 1;

/// Size of the ring of task and map events, in bytes: those of 150,000 calls.
pub(super) const CONTROL_BYTES: u32 = 16 << 20;

impl Probes {
    /// Creates the maps and verifies the programs; attaches nothing.
    pub fn load(plan: &Plan) -> Result<Self, AttachError> {
        let Plan {
            config,
            cgroup_path,
            entry: _,
            lock: _,
            follows_maps: _,
            from_records: _,
            ring_bytes,
            possible_cpus,
            stacks: has_stacks,
            verbose,
        } = plan;
        let rings = fault_rings(*possible_cpus, *ring_bytes, rustix::param::page_size());
        let config = Config {
            heat_cells: heat::cells_per_cpu(*possible_cpus).into(),
            event_rings: rings.len() as u64,
            rule_buckets: if *has_stacks { rules::BUCKETS.into() } else { 0 },
            // A dump that just fits must leave room for stacks.
            dump_bytes: u64::from(stacks::RING_BYTES) / 4 * 3,
            ..*config
        };
        let words = config.to_words();
        let mut path = [0_u8; CGROUP_PATH_MAX];
        path[..cgroup_path.len()].copy_from_slice(cgroup_path.as_bytes());
        let calls = syscalls::table();
        let log_level = if *verbose { log::Level::Debug as u8 } else { 0 };
        let _lifted = memlock::lift();
        let btf = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        if *has_stacks {
            loader.map_max_entries(names::STACKS, stacks::RING_BYTES);
            loader.map_max_entries(names::RULES, rules::BUCKETS);
            loader.map_max_entries(names::SENT_STACKS, names::SENT_STACKS_LEN);
        }
        for name in rings {
            loader.map_max_entries(name, ring_bytes >> rings.len().trailing_zeros());
        }
        let mut ebpf = loader
            .btf(btf.as_ref())
            .override_global(names::CONFIG, &words, true)
            .override_global(names::CGROUP_PATH, &path, true)
            .override_global(names::CALLS, &calls, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries(names::CONTROL, CONTROL_BYTES)
            .map_max_entries(names::HEAT, heat::array_cells(*possible_cpus))
            .map_max_entries(names::COUNTERS, possible_cpus * Counter::STRIDE)
            .load(OBJECT)
            .map_err(|error| failure("load the eBPF object", error))?;
        let programs = Programs::new(plan);
        for Attachable { name, .. } in programs.iter() {
            verify(name, find(&mut ebpf, name)?)?;
        }
        let translates_ids = config.pid_namespace != 0;
        if let Some(btf) = btf.as_ref().filter(|_| translates_ids) {
            lister(&mut ebpf)?.load("task", btf).map_err(|error| refusal(names::TASK_IDS, error))?;
        }
        let of_cpus = completions_of_cpus(&mut ebpf, &programs)?;
        let (follows_maps, tells_duplicates) = (plan.follows_maps, config.has_task_layout != 0);
        Ok(Self { ebpf, programs, follows_maps, tells_duplicates, translates_ids, rings, of_cpus })
    }

    /// Attaches the programs of `step`, which see every task. Completions have a scope: [`Self::attach_completions`].
    pub(super) fn attach(&mut self, step: Step) -> Result<(), AttachError> {
        for Attachable { name, hook, .. } in self.programs.of(step) {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu: 0 };
            attach(find(&mut self.ebpf, name)?, hook, scope, false)
                .map_err(|error| failure(&format!("attach {name} to {hook}"), error))?;
        }
        Ok(())
    }

    /// Whether changes of address spaces are followed.
    #[must_use]
    pub const fn follows_maps(&self) -> bool {
        self.follows_maps
    }

    /// Whether a completion that two events report is counted once: the programs tell by the kernel's counters.
    #[must_use]
    pub const fn tells_duplicates(&self) -> bool {
        self.tells_duplicates
    }

    /// Starts to see completions of faults in `scope`; threads that ended meanwhile are left out and returned.
    pub fn attach_completions(&mut self, scope: &Scope) -> Result<Vec<u32>, AttachError> {
        let mut gone = Vec::new();
        match scope {
            Scope::Threads(tids) => {
                for &tid in tids {
                    match self.attach_to_thread(tid) {
                        Err(AttachError::Gone { .. }) => gone.push(tid),
                        result => result?,
                    }
                }
            }
            Scope::Cpus(cpus) => {
                for &cpu in cpus {
                    self.of_cpus.attach(cpu).map_err(|error| {
                        failure(&format!("attach to completions of faults on CPU {cpu}"), error)
                    })?;
                }
            }
        }
        Ok(gone)
    }

    fn attach_to_thread(&mut self, tid: u32) -> Result<(), AttachError> {
        let scope = PerfEventScope::OneProcess { pid: tid, cpu: None };
        for Attachable { name, hook, .. } in self.programs.of(Step::Completions) {
            attach(find(&mut self.ebpf, name)?, hook, scope, true).map_err(|error| {
                match os_error(&error) {
                    Some(libc::ESRCH) => AttachError::Gone { tid },
                    _ => failure(&format!("attach {name} to {hook}"), error),
                }
            })?;
        }
        Ok(())
    }

    /// The completions that are attached by CPU, of which some may come later.
    #[must_use]
    pub fn completions_of_cpus(&self) -> CpuCompletions {
        self.of_cpus.clone()
    }

    /// By which thread IDs the programs find the tasks that there are.
    pub fn initial_tids(&mut self) -> Result<InitialTids, AttachError> {
        if !self.translates_ids {
            return Ok(InitialTids::SAME);
        }
        let what = "list the tasks of this PID namespace";
        let lister = lister(&mut self.ebpf)?;
        let link = lister.attach().and_then(|link| lister.take_link(link));
        let file = link.map_err(|error| failure(what, error))?.into_file();
        let mut ids = Vec::new();
        let read = file.map_err(|error| failure(what, error))?.read_to_end(&mut ids);
        read.map_err(|error| failure(what, error))?;
        Ok(InitialTids::from_bytes(&ids))
    }

    /// Adds the task that is `tid` in the initial PID namespace to the traced ones. Before completions are attached only.
    pub fn track(&mut self, tid: u32, state: &TaskState) -> Result<(), AttachError> {
        let mut tasks = self.tasks()?;
        tasks
            .insert(tid, state.to_bytes(), 0)
            .map_err(|error| failure(&format!("add thread {tid} to the traced ones"), error))
    }

    /// Takes the task that is `tid` in the initial PID namespace out of the traced ones. Before completions are attached only.
    pub fn forget(&mut self, tid: u32) -> Result<(), AttachError> {
        match self.tasks()?.remove(&tid) {
            // The programs were faster.
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failure(&format!("take thread {tid} out of the traced ones"), error)),
        }
    }

    /// Adds a thread group to the traced ones, unless the programs have. Before completions are attached only.
    pub fn track_group(&mut self, tgid: u32, space: u64) -> Result<(), AttachError> {
        let map = self.map(names::GROUPS)?;
        let mut groups: HashMap<_, u32, u64> =
            map.try_into().map_err(|error| failure("use the map GROUPS", error))?;
        match groups.insert(tgid, space, BPF_NOEXIST) {
            Err(error) if os_error(&error) != Some(libc::EEXIST) => {
                Err(failure(&format!("add process {tgid} to the traced ones"), error))
            }
            _ => Ok(()),
        }
    }

    /// What the programs know of each traced task, by thread ID in the initial PID namespace. After [`Self::disarm`] only.
    pub fn states(&mut self) -> Result<Vec<(u32, TaskState)>, AttachError> {
        let tasks = self.tasks()?;
        let mut states: Vec<_> = tasks
            .iter()
            .filter_map(Result::ok)
            .filter_map(|(tid, bytes)| Some((tid, TaskState::from_bytes(&bytes)?)))
            .collect();
        states.sort_unstable_by_key(|(tid, _)| *tid);
        Ok(states)
    }

    fn tasks(&mut self) -> Result<HashMap<&mut MapData, u32, [u8; TaskState::LEN]>, AttachError> {
        self.map(names::TASKS)?.try_into().map_err(|error| failure("use the map TASKS", error))
    }

    fn map(&mut self, name: &str) -> Result<&mut Map, AttachError> {
        self.ebpf.map_mut(name).ok_or_else(|| missing(format!("find the map {name}")))
    }

    /// The rings of faults; they can be taken once.
    pub fn fault_rings(&mut self) -> Result<Vec<RingBuf<MapData>>, AttachError> {
        self.rings.iter().map(|name| self.ring(name)).collect()
    }

    /// The ring of task events; it can be taken once.
    pub fn control_ring(&mut self) -> Result<RingBuf<MapData>, AttachError> {
        self.ring(names::CONTROL)
    }

    /// The ring of stacks, and the table of rules; they can be taken once. `None` if no stacks are recorded.
    pub fn stacks(&mut self, plan: &Plan) -> Result<Option<(RingBuf<MapData>, RuleTable)>, AttachError> {
        if !plan.stacks {
            return Ok(None);
        }
        let rules = self.writable(names::RULES, RuleTable::words())?;
        let table =
            RuleTable::new(rules, self.writable(names::SENT_STACKS, names::SENT_STACKS_LEN as usize)?);
        Ok(Some((self.ring(names::STACKS)?, table)))
    }

    fn ring(&mut self, name: &str) -> Result<RingBuf<MapData>, AttachError> {
        let map = self.ebpf.take_map(name).ok_or_else(|| missing(format!("find the ring {name}")))?;
        RingBuf::try_from(map).map_err(|error| failure(&format!("map the ring {name}"), error))
    }

    /// The counters, mapped for reading.
    pub fn counters(&mut self, possible_cpus: u32) -> Result<Arc<SharedWords>, AttachError> {
        let words = possible_cpus * Counter::STRIDE;
        self.shared(names::COUNTERS, words as usize).map(Arc::new)
    }

    /// The heat array, mapped for reading.
    pub fn heat(&mut self, possible_cpus: u32) -> Result<SharedWords, AttachError> {
        let cells = heat::array_cells(possible_cpus) as usize;
        self.shared(names::HEAT, cells * HeatCell::LEN / 8)
    }

    fn writable(&mut self, name: &str, words: usize) -> Result<WritableWords, AttachError> {
        self.mapped(name, |array| WritableWords::map(array, words))
    }

    fn shared(&mut self, name: &str, words: usize) -> Result<SharedWords, AttachError> {
        self.mapped(name, |array| SharedWords::map(array, words))
    }

    fn mapped<T>(
        &mut self,
        name: &str,
        map: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T, AttachError> {
        let what = format!("map the array {name}");
        let Map::Array(data) = self.map(name)? else {
            return Err(missing(what));
        };
        map(data.fd().as_fd()).map_err(|error| failure(&what, error))
    }

    /// How often the kernel skips programs of which that is a loss. Before anything is attached.
    pub fn skips(&self) -> Result<SkipMeter, AttachError> {
        let descriptors = self.programs.missed_if_skipped().map(|Attachable { name, .. }| {
            let program = self.ebpf.program(name).ok_or_else(|| missing(format!("find {name}")))?;
            let fd = program.fd().map_err(|error| failure(&format!("use {name}"), error))?;
            fd.as_fd().try_clone_to_owned().map_err(|error| failure(&format!("duplicate {name}"), error))
        });
        let descriptors: Vec<_> = descriptors.collect::<Result<_, _>>()?;
        SkipMeter::new(descriptors).map_err(|error| failure("ask how often programs were skipped", error))
    }

    /// What the programs log, for `-v`.
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, AttachError> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(|error| failure("read the eBPF log", error))
    }

    /// Instructions that the kernel's verifier walked in each loaded program; those of which the kernel does not tell
    /// (before Linux 5.16) are left out.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>, AttachError> {
        let mut verified = Vec::new();
        for (name, program) in self.ebpf.programs().filter(|(_, program)| program.fd().is_ok()) {
            let info = program.info().map_err(|error| failure(&format!("ask about {name}"), error))?;
            verified.extend(info.verified_instruction_count().map(|count| (name.to_owned(), count)));
        }
        Ok(verified)
    }

    /// Detaches everything; the maps stay.
    pub fn disarm(&mut self) {
        self.of_cpus.end();
        for (name, program) in self.ebpf.programs_mut().filter(|(_, program)| program.fd().is_ok()) {
            let result = match program {
                Program::RawTracePoint(program) => program.unload(),
                Program::TracePoint(program) => program.unload(),
                Program::PerfEvent(program) => program.unload(),
                _ => continue,
            };
            if let Err(error) = result {
                log::debug!("unloading {name}: {error}");
            }
        }
    }
}

/// Those of `programs` for completions, to be attached by CPU.
fn completions_of_cpus(ebpf: &mut Ebpf, programs: &Programs) -> Result<CpuCompletions, AttachError> {
    let mut completions = Vec::new();
    for Attachable { name, hook, .. } in programs.of(Step::Completions) {
        if let Hook::Software(event) = hook {
            let what = format!("take a descriptor of {name}");
            let program = find(ebpf, name)?.fd().map_err(|error| failure(&what, error))?;
            let program = program.as_fd().try_clone_to_owned().map_err(|error| failure(&what, error))?;
            completions.push((program, (event as u32).into()));
        }
    }
    Ok(CpuCompletions::new(completions))
}

/// The program `name` of the object.
fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, AttachError> {
    ebpf.program_mut(name).ok_or_else(|| missing(format!("find {name} in the eBPF object")))
}

/// The program that lists tasks.
fn lister(ebpf: &mut Ebpf) -> Result<&mut Iter, AttachError> {
    find(ebpf, names::TASK_IDS)?
        .try_into()
        .map_err(|error| failure("use the program that lists tasks", error))
}

/// Lets the kernel verify a program.
fn verify(name: &str, program: &mut Program) -> Result<(), AttachError> {
    let result = match program {
        Program::RawTracePoint(program) => program.load(),
        Program::TracePoint(program) => program.load(),
        Program::PerfEvent(program) => program.load(),
        other => return Err(missing(format!("load {name} of type {:?}", other.prog_type()))),
    };
    result.map_err(|error| refusal(name, error))
}

/// Attaches a program to its hook; `scope` and `inherit` are for software events.
fn attach(
    program: &mut Program,
    hook: Hook,
    scope: PerfEventScope,
    inherit: bool,
) -> Result<(), ProgramError> {
    match hook {
        Hook::Raw(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.attach(name).map(drop)
        }
        Hook::Record(category, name) => {
            let program: &mut TracePoint = program.try_into()?;
            program.attach(category, name).map(drop)
        }
        Hook::Software(event) => {
            let program: &mut PerfEvent = program.try_into()?;
            let period = SamplePolicy::Period(1);
            program.attach(PerfEventConfig::Software(event), scope, period, inherit).map(drop)
        }
    }
}

/// The rings of faults that share out `ring_bytes`: one for each CPU, as far as there are rings and pages.
fn fault_rings(possible_cpus: u32, ring_bytes: u32, page_bytes: usize) -> &'static [&'static str] {
    let pages = ring_bytes as usize / page_bytes;
    let wanted = possible_cpus.next_power_of_two() as usize;
    &names::EVENTS[..wanted.min(pages).clamp(1, EVENT_RINGS)]
}
