//! What the programs cost the verifier of this kernel, in every way that they are loaded.
//!
//! The file that `MEMTRACE_VERIFIED` names gets a line per program: its name, and the instructions that the verifier
//! walked in the dearest way; with `+stacks` behind the name, where stacks are recorded. `cargo xtask verifier` collects them.

use std::{collections::BTreeMap, env, fs};

use memtrace::{
    host::{Facility, Features},
    live::{Entry, Plan, Probes},
};
use memtrace_ebpf::Config;
use memtrace_tests::require;

/// Most instructions that the verifier may walk in one program: a fiftieth of the kernel's limit, so that a verifier
/// which remembers less does not reach it either.
const BUDGET: u32 = 20_000;

/// The same in a program that walks stacks, for each of their frames: two fifths of the limit.
const BUDGET_OF_WALKS: u32 = 400_000;

/// The plans that sessions make here, and some that they make on kernels with less.
fn plans(features: &Features) -> Vec<Plan> {
    let here = features.offsets().expect("this host can record");
    let syscalls = u64::from(features.is_usable(Facility::SyscallNames));
    // Offsets are numbers to the verifier; which programs there are depends on the first field alone.
    let layouts = if here.has_task_layout == 1 { vec![1, 0] } else { vec![0] };
    let from_records =
        [false].into_iter().chain(features.is_usable(Facility::TracepointRecords).then_some(true));
    let ways =
        layouts.into_iter().flat_map(|layout| from_records.clone().map(move |records| (layout, records)));
    let mut plans = Vec::new();
    for (has_task_layout, from_records) in ways {
        for (join_groups, whole_system) in [(0, 0), (1, 0), (0, 1)] {
            for (entry, full_detail) in
                [(Entry::Tracepoints, 1), (Entry::Tracepoints, 0), (Entry::Software, 1)]
            {
                plans.push(Plan {
                    config: Config {
                        has_task_layout,
                        join_groups,
                        whole_system,
                        full_detail,
                        follow_forks: 1,
                        cgroup_path_len: 8 * join_groups,
                        has_task_pt_regs: syscalls * has_task_layout,
                        // Whoever can be named may be so in another PID namespace, where a program has more to do.
                        pid_namespace: has_task_layout * (1 - join_groups.max(whole_system)),
                        holder: has_task_layout * (1 - join_groups.max(whole_system)),
                        ..here
                    },
                    cgroup_path: if join_groups == 1 { "/a/group".to_owned() } else { String::new() },
                    entry,
                    lock: features.lock_arguments(),
                    follows_maps: features.is_usable(Facility::CallTracepoint),
                    from_records,
                    ring_bytes: 1 << 20,
                    possible_cpus: 2,
                    stacks: false,
                    verbose: true,
                });
            }
        }
    }
    // Stacks are walked in the same way whatever else there is.
    plans.extend(plans.first().map(|plan| Plan { stacks: true, ..plan.clone() }));
    plans
}

#[test]
fn programs_stay_within_the_verifier_budget() {
    require!(root);
    require!(bpf);
    let mut dearest: BTreeMap<String, u32> = BTreeMap::new();
    for plan in plans(&Features::probe()) {
        let probes = Probes::load(&plan).unwrap_or_else(|error| panic!("{plan:#?}: {error}"));
        for (name, instructions) in probes.verified_instructions().expect("the programs are loaded") {
            let name = if plan.stacks { format!("{name}+stacks") } else { name };
            let most = dearest.entry(name).or_default();
            *most = (*most).max(instructions);
        }
    }

    let known: Vec<_> = dearest.iter().map(|(name, most)| format!("{name} {most}")).collect();
    if let Some(path) = env::var_os("MEMTRACE_VERIFIED") {
        fs::write(path, known.join("\n")).expect("the file named by MEMTRACE_VERIFIED can be written");
    }
    require!(kernel "5.16");
    assert!(!dearest.is_empty());
    let budget = |name: &str| if name.ends_with("+stacks") { BUDGET_OF_WALKS } else { BUDGET };
    let is_beyond = |name: &str, most: u32| most > budget(name) || most == 0;
    let beyond: Vec<_> = dearest.iter().filter(|(name, most)| is_beyond(name, **most)).collect();
    assert!(beyond.is_empty(), "not within {BUDGET}, or {BUDGET_OF_WALKS}: {beyond:?} of {known:#?}");
}
