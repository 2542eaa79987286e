//! What user space tells the programs before they are loaded.

record! {
    /// Constants of one session; all fields are words, so that the struct is an array of them.
    ///
    /// Offsets are in bytes and come from the running kernel's BTF.
    pub struct Config = 144 {
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
        /// Offset of `live.counter` in `signal_struct`.
        pub signal_live: u64,
        /// Offset of `ip` in `pt_regs`.
        pub regs_ip: u64,
        /// Offset of the system-call number in `pt_regs` (`orig_ax` on x86-64).
        pub regs_syscall: u64,
        /// Offset of `root` in `cgroup`.
        pub cgroup_root: u64,
        /// Offset of `hierarchy_id` in `cgroup_root`.
        pub cgroup_root_hierarchy: u64,
        /// 1 if new tasks of traced tasks are traced too.
        pub follow_forks: u64,
        /// 1 if faults are written to `EVENTS`; 0 counts them in `HEAT` alone.
        pub full_detail: u64,
        /// 1 if tasks of [`GROUPS`](crate::names::GROUPS) join when first seen (cgroup targets).
        pub join_groups: u64,
        /// 1 if every task of the system is traced, those born of untraced parents too.
        pub whole_system: u64,
        /// Hierarchy of the traced cgroup; the unified one is usually 0 or 1.
        pub cgroup_hierarchy: u64,
        /// Bytes in [`CGROUP_PATH`](crate::names::CGROUP_PATH); 0 if no cgroup is traced.
        pub cgroup_path_len: u64,
        /// Cells of the table in each CPU's section of `HEAT`: a power of two.
        pub heat_cells: u64,
        /// Base page size of the host, in bytes.
        pub page_size: u64,
    }
}

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
