//! Finds where the running kernel keeps the fields that the programs read.
//!
//! Layer: shell. Input: BTF, as the kernel shows it. Output: [`Config`] with its offsets set.
//! Source: `Documentation/bpf/btf.rst`; `include/uapi/linux/btf.h`. The programs have no relocations of
//! their own, and aya keeps members of types to itself.
//! Keeps: damaged input is an error, never a panic and never a wrong offset.
//! Not here: what the programs do with the fields (`memtrace_ebpf`).

use std::{fs, io};

use memtrace_ebpf::Config;

/// Where the kernel shows its own types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the fields could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// The file could not be read; kernels built without `CONFIG_DEBUG_INFO_BTF` have none.
    #[error("cannot read {VMLINUX}")]
    Read(#[from] io::Error),
    /// The bytes are no BTF, or end early.
    #[error("the kernel's BTF is damaged")]
    Damaged,
    /// A newer kernel has types whose length is not known.
    #[error("the kernel's BTF has types of the unknown kind {0}")]
    UnknownKind(u32),
    /// The kernel's types are not as the programs know them.
    #[error("this kernel has no {0}")]
    NoField(String),
}

/// Name in `pt_regs` of the instruction pointer and of the system-call number.
#[cfg(target_arch = "x86_64")]
const REGISTERS: (&str, &str) = ("ip", "orig_ax");
/// Name in `pt_regs` of the instruction pointer and of the system-call number.
#[cfg(target_arch = "aarch64")]
const REGISTERS: (&str, &str) = ("pc", "syscallno");

/// The offsets of the running kernel; all other fields are 0.
pub(super) fn kernel_offsets() -> Result<Config, BtfError> {
    offsets(&fs::read(VMLINUX)?)
}

/// The offsets in the kernel whose BTF is `bytes`; all other fields are 0.
fn offsets(bytes: &[u8]) -> Result<Config, BtfError> {
    let btf = Btf::parse(bytes)?;
    let task = btf.structure("task_struct")?;
    let files = btf.structure("files_struct")?;
    let table = btf.structure("fdtable")?;
    let inode = btf.structure("inode")?;
    let file_system = btf.structure("super_block")?;
    let signal = btf.structure("signal_struct")?;
    let regs = btf.structure("pt_regs")?;
    let mm = btf.structure("mm_struct")?;
    let cgroup = btf.structure("cgroup")?;
    let cgroup_root = btf.structure("cgroup_root")?;
    let (pid, upid) = (btf.structure("pid")?, btf.structure("upid")?);
    let (task_dumpable, dumpable) = match btf.structure("task_exec_state") {
        Ok(exec_state) => (btf.offset(task, &["exec_state"])?, btf.offset(exec_state, &["dumpable"])?),
        Err(_) => (btf.offset(task, &["mm"])?, btf.offset(mm, &["flags"])?),
    };
    let config = Config {
        has_task_layout: 1,
        task_min_flt: btf.offset(task, &["min_flt"])?,
        task_maj_flt: btf.offset(task, &["maj_flt"])?,
        task_pid: btf.offset(task, &["pid"])?,
        task_tgid: btf.offset(task, &["tgid"])?,
        task_signal: btf.offset(task, &["signal"])?,
        task_mm: btf.offset(task, &["mm"])?,
        task_flags: btf.offset(task, &["flags"])?,
        mm_total_vm: btf.offset(mm, &["total_vm"])?,
        mm_start_brk: btf.offset(mm, &["start_brk"])?,
        mm_brk: btf.offset(mm, &["brk"])?,
        mm_start_stack: btf.offset(mm, &["start_stack"])?,
        task_dumpable,
        dumpable,
        task_files: btf.offset(task, &["files"])?,
        files_fdt: btf.offset(files, &["fdt"])?,
        fdt_max_fds: btf.offset(table, &["max_fds"])?,
        fdt_fd: btf.offset(table, &["fd"])?,
        file_inode: btf.offset(btf.structure("file")?, &["f_inode"])?,
        inode_mode: btf.offset(inode, &["i_mode"])?,
        inode_sb: btf.offset(inode, &["i_sb"])?,
        sb_magic: btf.offset(file_system, &["s_magic"])?,
        sb_dev: btf.offset(file_system, &["s_dev"])?,
        signal_live: btf.offset(signal, &["live", "counter"])?,
        signal_flags: btf.offset(signal, &["flags"])?,
        signal_group_exit_code: btf.offset(signal, &["group_exit_code"])?,
        signal_maxrss: btf.offset(signal, &["maxrss"])?,
        task_exit_code: btf.offset(task, &["exit_code"])?,
        regs_ip: btf.offset(regs, &[REGISTERS.0])?,
        regs_syscall: btf.offset(regs, &[REGISTERS.1])?,
        cgroup_root: btf.offset(cgroup, &["root"])?,
        cgroup_root_hierarchy: btf.offset(cgroup_root, &["hierarchy_id"])?,
        cgroup_kn: btf.offset(cgroup, &["kn"])?,
        cgroup_self: btf.offset(cgroup, &["self"])?,
        css_parent: btf.offset(btf.structure("cgroup_subsys_state")?, &["parent"])?,
        kn_id: btf.offset(btf.structure("kernfs_node")?, &["id"])?,
        task_thread_pid: btf.offset(task, &["thread_pid"])?,
        pid_level: btf.offset(pid, &["level"])?,
        pid_numbers: btf.offset(pid, &["numbers"])?,
        upid_len: upid.referred.into(),
        upid_nr: btf.offset(upid, &["nr"])?,
        upid_ns: btf.offset(upid, &["ns"])?,
        pid_namespace_inum: btf.offset(btf.structure("pid_namespace")?, &["ns", "inum"])?,
        task_ptrace: btf.offset(task, &["ptrace"])?,
        task_parent: btf.offset(task, &["parent"])?,
        task_group_leader: btf.offset(task, &["group_leader"])?,
        task_blocked: btf.offset(task, &["blocked"])?,
        ..Config::ZERO
    };
    // Without io_uring, and before it kept requests as it does since Linux 6.0, the programs do without.
    Ok(with_requests(&btf, &config).unwrap_or(config))
}

/// `config` with the offsets by which advice by `io_uring` is found.
fn with_requests(btf: &Btf<'_>, config: &Config) -> Result<Config, BtfError> {
    let task = btf.structure("task_struct")?;
    let request = btf.structure("io_kiocb")?;
    let advice = btf.structure("io_madvise")?;
    let command = btf.offset(request, &["cmd"])?;
    Ok(Config {
        has_requests: 1,
        request_opcode: btf.offset(request, &["opcode"])?,
        request_result: btf.offset(request, &["cqe", "res"])?,
        request_work: btf.offset(request, &["work"])?,
        madvise_addr: command + btf.offset(advice, &["addr"])?,
        madvise_len: command + btf.offset(advice, &["len"])?,
        madvise_advice: command + btf.offset(advice, &["advice"])?,
        task_worker: btf.offset(task, &["worker_private"])?,
        worker_work: btf.offset(btf.structure("io_worker")?, &["cur_work"])?,
        ..*config
    })
}

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// Bytes of `struct btf_type`.
const TYPE_LEN: usize = 12;
/// Bytes of `struct btf_member`.
const MEMBER_LEN: usize = 12;

/// How far types are followed into one another: damaged BTF may lead in a circle.
const MAX_DEPTH: u32 = 16;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Bytes that follow a type of `kind` with `count` parts; `None` for kinds that came after Linux 6.18.
const fn trailer_len(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Enumeration, function prototype.
        6 | 13 => 8 * count,
        // Structure, union, data section, 64-bit enumeration.
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
        _ => return None,
    })
}

/// Number of a type; 0 is void.
type TypeId = u32;

/// A type: the numbers of `struct btf_type`, and where its parts begin.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    count: usize,
    /// Whether offsets of members hold the size of a bit field in their upper byte.
    has_bit_fields: bool,
    /// Size, or the type that it refers to.
    referred: TypeId,
    parts: usize,
}

/// A member of a structure or union.
struct Member {
    name: u32,
    of: TypeId,
    bits: u32,
}

/// The types and names of a kernel.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; type 1 first.
    starts: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.first_chunk().ok_or(BtfError::Damaged)?;
        if bytes.len() < HEADER_LEN || u16::from_ne_bytes(*magic) != MAGIC {
            return Err(BtfError::Damaged);
        }
        let body = bytes.get(word(bytes, 4)? as usize..).ok_or(BtfError::Damaged)?;
        let types = section(body, word(bytes, 8)?, word(bytes, 12)?)?;
        let strings = section(body, word(bytes, 16)?, word(bytes, 20)?)?;
        let mut btf = Self { types, strings, starts: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            let ty = btf.type_at(at)?;
            let len = trailer_len(ty.kind, ty.count).ok_or(BtfError::UnknownKind(ty.kind))?;
            btf.starts.push(at);
            at = ty.parts + len;
        }
        if at == types.len() { Ok(btf) } else { Err(BtfError::Damaged) }
    }

    fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        let info = word(self.types, at + 4)?;
        Ok(Type {
            name: word(self.types, at)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            referred: word(self.types, at + 8)?,
            parts: at + TYPE_LEN,
        })
    }

    fn type_by_id(&self, id: TypeId) -> Option<Type> {
        let at = self.starts.get((id as usize).checked_sub(1)?)?;
        self.type_at(*at).ok()
    }

    fn is_named(&self, name: u32, text: &str) -> bool {
        let rest = self.strings.get(name as usize..).unwrap_or_default();
        rest.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The structure `name`.
    fn structure(&self, name: &str) -> Result<Type, BtfError> {
        self.starts
            .iter()
            .filter_map(|&at| self.type_at(at).ok())
            .find(|ty| ty.kind == KIND_STRUCT && ty.count > 0 && self.is_named(ty.name, name))
            .ok_or_else(|| BtfError::NoField(format!("struct {name}")))
    }

    /// Offset in bytes, within `ty`, of the member that `path` leads to.
    fn offset(&self, ty: Type, path: &[&str]) -> Result<u64, BtfError> {
        let mut ty = Some(ty);
        let mut bits = 0;
        for name in path {
            let found = ty.and_then(|ty| self.member(ty, name, MAX_DEPTH));
            let (of, at) = found.ok_or_else(|| BtfError::NoField(path.join(".")))?;
            bits += u64::from(at);
            ty = self.aggregate(of);
        }
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(BtfError::Damaged) }
    }

    /// Type and offset in bits of the member `name` of `ty`, or of its members without a name.
    fn member(&self, ty: Type, name: &str, depth: u32) -> Option<(TypeId, u32)> {
        let members = || (0..ty.count).filter_map(|index| self.member_at(ty, index).ok());
        let named = members().find(|member| self.is_named(member.name, name));
        if let Some(member) = named {
            return Some((member.of, member.bits));
        }
        let depth = depth.checked_sub(1)?;
        members().filter(|member| self.is_named(member.name, "")).find_map(|member| {
            let (of, bits) = self.member(self.aggregate(member.of)?, name, depth)?;
            Some((of, member.bits.checked_add(bits)?))
        })
    }

    fn member_at(&self, ty: Type, index: usize) -> Result<Member, BtfError> {
        let at = ty.parts + index * MEMBER_LEN;
        let offset = word(self.types, at + 8)?;
        Ok(Member {
            name: word(self.types, at)?,
            of: word(self.types, at + 4)?,
            bits: if ty.has_bit_fields { offset & 0x00ff_ffff } else { offset },
        })
    }

    /// The structure or union that `id` is, behind typedefs and qualifiers.
    fn aggregate(&self, mut id: TypeId) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let ty = self.type_by_id(id)?;
            match ty.kind {
                KIND_STRUCT | KIND_UNION => return Some(ty),
                8..=11 | 18 => id = ty.referred,
                _ => return None,
            }
        }
        None
    }
}

/// The 32-bit number at `at`.
fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(BtfError::Damaged)?;
    Ok(u32::from_ne_bytes(*bytes))
}

/// `len` bytes from `start`.
fn section(bytes: &[u8], start: u32, len: u32) -> Result<&[u8], BtfError> {
    let rest = bytes.get(start as usize..).ok_or(BtfError::Damaged)?;
    rest.get(..len as usize).ok_or(BtfError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes BTF by hand: names and types in the order of the calls.
    #[derive(Default)]
    struct Blob {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Blob {
        fn new() -> Self {
            Self { types: Vec::new(), strings: vec![0] }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).expect("short");
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }

        /// A structure of members (name, type, offset in bits).
        fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) {
            let name = self.name(name);
            let count = u32::try_from(members.len()).expect("few");
            self.words(&[name, 4 << 24 | count, 64]);
            for (name, of, bits) in members {
                let name = self.name(name);
                self.words(&[name, *of, *bits]);
            }
        }

        fn bytes(&self) -> Vec<u8> {
            let types = u32::try_from(self.types.len()).expect("short");
            let strings = u32::try_from(self.strings.len()).expect("short");
            let mut bytes = vec![];
            bytes.extend(0xeb9f_u16.to_ne_bytes());
            bytes.extend([1, 0]);
            for word in [24, 0, types, types, strings] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(&self.types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    /// 1: int, 2: struct { int counter; }, 3: typedef of 2, 4: anonymous struct, 5: struct outer.
    fn sample() -> Blob {
        let mut blob = Blob::new();
        let int = blob.name("int");
        blob.words(&[int, 1 << 24, 4, 32]);
        blob.structure("", &[("counter", 1, 0)]);
        let atomic = blob.name("atomic_t");
        blob.words(&[atomic, 8 << 24, 2]);
        blob.structure("", &[("first", 1, 0), ("live", 3, 32)]);
        blob.structure("outer", &[("head", 1, 0), ("", 4, 128), ("odd", 1, 3)]);
        blob
    }

    fn offset(bytes: &[u8], path: &[&str]) -> Result<u64, BtfError> {
        let btf = Btf::parse(bytes)?;
        btf.offset(btf.structure("outer")?, path)
    }

    #[test]
    fn member_in_a_nameless_structure_is_found() {
        // 16 bytes to the nameless structure, 4 within it, 0 within the typedef.
        let bytes = sample().bytes();

        assert_eq!(offset(&bytes, &["live"]).expect("it is there"), 20);
        assert_eq!(offset(&bytes, &["live", "counter"]).expect("it is there"), 20);
        assert_eq!(offset(&bytes, &["head"]).expect("it is there"), 0);
    }

    #[test]
    fn absent_and_bit_fields_have_no_offset() {
        let bytes = sample().bytes();

        assert!(matches!(offset(&bytes, &["liv"]), Err(BtfError::NoField(name)) if name == "liv"));
        assert!(offset(&bytes, &["odd"]).is_err());
        assert!(offset(&bytes, &["head", "counter"]).is_err());
    }

    #[test]
    fn unknown_kind_is_told() {
        let mut blob = sample();
        blob.words(&[0, 30 << 24, 0]);

        assert!(matches!(offset(&blob.bytes(), &["head"]), Err(BtfError::UnknownKind(30))));
    }

    #[test]
    fn every_cut_of_the_file_is_an_error() {
        let bytes = sample().bytes();

        for len in 0..bytes.len() {
            assert!(matches!(offset(&bytes[..len], &["head"]), Err(BtfError::Damaged)), "{len}");
        }
    }

    #[test]
    fn structure_within_itself_is_no_endless_loop() {
        let mut blob = Blob::new();
        blob.structure("outer", &[("", 1, 0)]);

        assert!(offset(&blob.bytes(), &["head"]).is_err());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn registers_lie_where_ptrace_h_has_them() {
        let Ok(offsets) = kernel_offsets() else {
            eprintln!("skipped: needs CONFIG_DEBUG_INFO_BTF");
            return;
        };

        // `struct pt_regs` of arch/x86: fifteen registers, then orig_ax, then ip.
        assert_eq!(offsets.regs_syscall, 15 * 8);
        assert_eq!(offsets.regs_ip, 16 * 8);
    }

    #[test]
    fn neighbours_in_the_kernel_headers_are_neighbours() {
        let Ok(offsets) = kernel_offsets() else {
            eprintln!("skipped: needs CONFIG_DEBUG_INFO_BTF");
            return;
        };

        // include/linux/sched.h: `pid_t pid; pid_t tgid;` and `unsigned long min_flt; unsigned long maj_flt;`.
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
        assert_eq!(offsets.task_maj_flt, offsets.task_min_flt + 8);
        // include/linux/pid.h: `struct upid { int nr; struct pid_namespace *ns; };`.
        assert_eq!((offsets.upid_nr, offsets.upid_ns, offsets.upid_len), (0, 8, 16));
        // include/linux/sched/signal.h: `refcount_t sigcnt; atomic_t live;`.
        assert_eq!(offsets.signal_live, 4);
    }
}
