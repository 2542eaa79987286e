//! What user space tells the programs before they are loaded.

/// Declares the constants, each a word, and their beginning.
macro_rules! constants {
    (
        $(#[$meta:meta])*
        pub struct $name:ident = $len:literal {
            $($(#[$field_meta:meta])* pub $field:ident: u64,)*
        }
    ) => {
        record! {
            $(#[$meta])*
            pub struct $name = $len {
                $($(#[$field_meta])* pub $field: u64,)*
            }
        }

        impl $name {
            /// All zero: what the object holds before user space sets it.
            pub const ZERO: Self = Self { $($field: 0,)* };
        }
    };
}

constants! {
    /// Constants of one session; all fields are words, so that the struct is an array of them.
    ///
    /// Offsets are in bytes: into kernel structs from the running kernel's BTF, into records of tracepoints from their
    /// `format` files. Those that no loaded program uses may be 0.
    pub struct Config = 736 {
        /// 1 if the offsets into `task_struct` are known; without them what the kernel charged to a task cannot be read.
        pub has_task_layout: u64,
        /// Offset of `min_flt` in `task_struct`.
        pub task_min_flt: u64,
        /// Offset of `maj_flt` in `task_struct`.
        pub task_maj_flt: u64,
        /// Offset of `pid` in `task_struct`.
        pub task_pid: u64,
        /// Offset of `tgid` in `task_struct`.
        pub task_tgid: u64,
        /// Offset of `signal` in `task_struct`.
        pub task_signal: u64,
        /// Offset of `mm` in `task_struct`.
        pub task_mm: u64,
        /// Offset of `total_vm` in `mm_struct`.
        pub mm_total_vm: u64,
        /// Offset of `start_brk` in `mm_struct`.
        pub mm_start_brk: u64,
        /// Offset of `brk` in `mm_struct`.
        pub mm_brk: u64,
        /// Offset of `start_stack` in `mm_struct`.
        pub mm_start_stack: u64,
        /// Offset in `task_struct` of the pointer to what tells who may look into the task: `mm`, in Linux 7.2 `exec_state`.
        pub task_dumpable: u64,
        /// Offset there of the word whose low two bits tell it.
        pub dumpable: u64,
        /// Offset of `files` in `task_struct`.
        pub task_files: u64,
        /// Offset of `fdt` in `files_struct`.
        pub files_fdt: u64,
        /// Offset of `max_fds` in `fdtable`.
        pub fdt_max_fds: u64,
        /// Offset of `fd` in `fdtable`.
        pub fdt_fd: u64,
        /// Offset of `f_inode` in `file`.
        pub file_inode: u64,
        /// Offset of `i_mode` in `inode`.
        pub inode_mode: u64,
        /// Offset of `i_sb` in `inode`.
        pub inode_sb: u64,
        /// Offset of `s_magic` in `super_block`.
        pub sb_magic: u64,
        /// Offset of `s_dev` in `super_block`.
        pub sb_dev: u64,
        /// Offset of `live.counter` in `signal_struct`.
        pub signal_live: u64,
        /// Offset of `flags` in `signal_struct`.
        pub signal_flags: u64,
        /// Offset of `group_exit_code` in `signal_struct`.
        pub signal_group_exit_code: u64,
        /// Offset of `maxrss` in `signal_struct`.
        pub signal_maxrss: u64,
        /// Offset of `exit_code` in `task_struct`.
        pub task_exit_code: u64,
        /// Offset of `ip` in `pt_regs`.
        pub regs_ip: u64,
        /// Offset of the system-call number in `pt_regs` (`orig_ax` on x86-64).
        pub regs_syscall: u64,
        /// Offset of `root` in `cgroup`.
        pub cgroup_root: u64,
        /// Offset of `hierarchy_id` in `cgroup_root`.
        pub cgroup_root_hierarchy: u64,
        /// Offset of `kn` in `cgroup`.
        pub cgroup_kn: u64,
        /// Offset of `self` in `cgroup`.
        pub cgroup_self: u64,
        /// Offset of `parent` in `cgroup_subsys_state`: the `self` of the cgroup above.
        pub css_parent: u64,
        /// Offset of `id` in `kernfs_node`.
        pub kn_id: u64,
        /// Offset of `thread_pid` in `task_struct`.
        pub task_thread_pid: u64,
        /// Offset of `level` in `pid`.
        pub pid_level: u64,
        /// Offset of `numbers` in `pid`.
        pub pid_numbers: u64,
        /// Bytes of an element of `numbers`, a `upid`.
        pub upid_len: u64,
        /// Offset of `nr` in `upid`.
        pub upid_nr: u64,
        /// Offset of `ns` in `upid`.
        pub upid_ns: u64,
        /// Offset of `ns.inum` in `pid_namespace`.
        pub pid_namespace_inum: u64,
        /// Offset of `pid` in a record of `task:task_newtask`.
        pub newtask_pid: u64,
        /// Offset of `clone_flags` in a record of `task:task_newtask`.
        pub newtask_clone_flags: u64,
        /// Offset of `pid` in a record of `sched:sched_process_free`.
        pub free_pid: u64,
        /// Offset of `pid` in a record of `task:task_rename`; 0 if it has none (Linux 6.14 to 6.18), and the current
        /// task passes for the renamed one.
        pub rename_pid: u64,
        /// Offset of `newcomm` in a record of `task:task_rename`.
        pub rename_newcomm: u64,
        /// Offset of `dst_root` in a record of `cgroup:cgroup_attach_task`.
        pub attach_dst_root: u64,
        /// Offset of `pid` in a record of `cgroup:cgroup_attach_task`.
        pub attach_pid: u64,
        /// Offset of `dst_path` in a record of `cgroup:cgroup_attach_task`: the word that tells where the text is.
        pub attach_dst_path: u64,
        /// Offset of `old_pid` in a record of `sched:sched_process_exec`.
        pub exec_old_pid: u64,
        /// Offset of `ret` in a record of `raw_syscalls:sys_exit`.
        pub exit_ret: u64,
        /// Offset of `mm` in a record of `mmap_lock:mmap_lock_acquire_returned`.
        pub lock_mm: u64,
        /// Offset of `write` there.
        pub lock_write: u64,
        /// Offset of `success` there.
        pub lock_success: u64,
        /// Offset of `mm` in a record of `mmap_lock:mmap_lock_released`.
        pub unlock_mm: u64,
        /// Offset of `write` there.
        pub unlock_write: u64,
        /// Offset of `address` in a record of `exceptions:page_fault_user`, and of `exceptions:page_fault_kernel`.
        pub fault_address: u64,
        /// Offset of `ip` there.
        pub fault_ip: u64,
        /// Offset of `error_code` there.
        pub fault_error: u64,
        /// Offset of `sig` in a record of `signal:signal_generate`.
        pub signal_number: u64,
        /// Offset of `code` there.
        pub signal_code: u64,
        /// Offset of `pid` there.
        pub signal_pid: u64,
        /// 1 if new tasks of traced tasks are traced too.
        pub follow_forks: u64,
        /// 1 if faults are written to the rings; 0 counts them in `HEAT` alone.
        pub full_detail: u64,
        /// 1 if tasks of [`GROUPS`](crate::names::GROUPS) join when first seen (cgroup targets).
        pub join_groups: u64,
        /// 1 if every task of the system is traced, those born of untraced parents too.
        pub whole_system: u64,
        /// Hierarchy of the traced cgroup; the unified one is 0.
        pub cgroup_hierarchy: u64,
        /// Number of the traced cgroup in its hierarchy, which is the inode of its directory; 0 if the kernel's types are
        /// unknown, and cgroups are distinguished by their paths.
        pub cgroup_id: u64,
        /// Bytes in [`CGROUP_PATH`](crate::names::CGROUP_PATH) that count.
        pub cgroup_path_len: u64,
        /// Cells of the table in each CPU's section of `HEAT`: a power of two.
        pub heat_cells: u64,
        /// Rings of faults in use: a power of two, at most [`EVENT_RINGS`](crate::EVENT_RINGS). A CPU uses the one with its
        /// number modulo this.
        pub event_rings: u64,
        /// 1 if the kernel has the helper `bpf_task_pt_regs` (Linux 5.15), which names the system call in flight.
        pub has_task_pt_regs: u64,
        /// 1 if advice by `io_uring` is followed; the offsets into its structs are known then.
        pub has_requests: u64,
        /// Offset of `opcode` in `io_kiocb`.
        pub request_opcode: u64,
        /// Offset of `cqe.res` in `io_kiocb`.
        pub request_result: u64,
        /// Offset of `work` in `io_kiocb`.
        pub request_work: u64,
        /// Offset in `io_kiocb` of `addr` of the `io_madvise` that is kept there.
        pub madvise_addr: u64,
        /// Offset in `io_kiocb` of its `len`.
        pub madvise_len: u64,
        /// Offset in `io_kiocb` of its `advice`.
        pub madvise_advice: u64,
        /// Offset of `flags` in `task_struct`.
        pub task_flags: u64,
        /// Offset of `worker_private` in `task_struct`: the `io_worker` of a worker of `io_uring`.
        pub task_worker: u64,
        /// Offset of `cur_work` in `io_worker`.
        pub worker_work: u64,
        /// Offset of `req` in a record of `io_uring:io_uring_complete`; 0 if there are none.
        pub completed_request: u64,
        /// Inode of the PID namespace whose IDs the records have; 0 for the initial one.
        pub pid_namespace: u64,
        /// Offset of `ptrace` in `task_struct`.
        pub task_ptrace: u64,
        /// Offset of `parent` in `task_struct`: the tracer, if there is one.
        pub task_parent: u64,
        /// Offset of `group_leader` in `task_struct`.
        pub task_group_leader: u64,
        /// Offset of `blocked` in `task_struct`.
        pub task_blocked: u64,
        /// Thread-group ID of the process that holds traced tasks by ptrace, in the recorder's PID namespace; 0 if none does.
        pub holder: u64,
        /// Elements of [`RULES`](crate::names::RULES), a power of two; 0 if no stacks are recorded.
        pub rule_buckets: u64,
        /// Bytes of [`STACKS`](crate::names::STACKS) up to which dumps may fill it; what is above is for stacks.
        pub dump_bytes: u64,
    }
}

/// Room for the path of the traced cgroup, in bytes.
pub const CGROUP_PATH_MAX: usize = 256;

impl Config {
    /// The fields as words, in order: the bytes of the struct.
    #[must_use]
    pub fn to_words(&self) -> [u64; Self::LEN / 8] {
        let bytes = self.to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        let mut out = [0; Self::LEN / 8];
        for (out, word) in out.iter_mut().zip(words) {
            *out = u64::from_ne_bytes(*word);
        }
        out
    }
}
