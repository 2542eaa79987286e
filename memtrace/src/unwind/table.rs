//! The unwind table of one ELF image.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian, Register,
    RegisterRule, UnwindContext, UnwindSection as _, UnwindTableRow, X86_64,
};
use memtrace_ebpf::{Base, Rule, Saved, StackEnd};
use object::{
    Endianness,
    elf::{FileHeader64, PF_X, PT_LOAD, SHT_NOTE},
    read::{
        ReadRef,
        elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _},
    },
};

use crate::event::CodeSegment;

/// Bytes of `.eh_frame` that are read at most: ten times those of a browser.
const SECTION_MAX: u64 = 256 << 20;

/// Bytes of the description of one function that are read at most.
const ENTRY_MAX: usize = 1 << 20;

/// Why an image has no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It is no ELF file of this architecture, or damaged.
    #[error("no ELF file")]
    Elf(#[from] object::read::Error),
    /// Its unwind table is larger than any program's.
    #[error("an unwind table of {0} bytes")]
    TooLarge(u64),
}

/// The unwind table of an ELF image, and what distinguishes the image from others.
#[derive(Debug)]
pub struct UnwindTable {
    segments: Vec<CodeSegment>,
    frames: Vec<u8>,
    bases: BaseAddresses,
    /// Where the descriptions of functions stand in `frames`, by the first address, in order.
    index: Vec<(u64, usize)>,
    /// The first instruction that the kernel lets run.
    entry: u64,
    build_id: Option<Box<[u8]>>,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// `rbp` and `rsp`.
const BP: Register = X86_64::RBP;
const SP: Register = X86_64::RSP;

/// How the linker describes the entries of a procedure linkage table of 16 bytes each: the CFA is `rsp + 8`, and 8 more from byte
/// `N` of an entry on, which is the literal in the middle (`DW_OP_lit0` is 0x30).
const PLT_BEFORE: [u8; 6] = [0x77, 8, 0x80, 0, 0x3f, 0x1a];
const PLT_AFTER: [u8; 4] = [0x2a, 0x33, 0x24, 0x22];

impl UnwindTable {
    /// The table of the image in `data`.
    pub fn parse<'a, R: ReadRef<'a>>(data: R) -> Result<Self, ImageError> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let programs = header.program_headers(endian, data)?;
        let code = programs.iter().filter(|one| one.p_type(endian) == PT_LOAD);
        let code = code.filter(|one| one.p_flags(endian) & PF_X != 0).map(|one| CodeSegment {
            offset: one.p_offset(endian),
            len: one.p_filesz(endian),
            addr: one.p_vaddr(endian),
        });
        let sections = header.sections(endian, data)?;
        let mut table = Self {
            segments: code.collect(),
            frames: Vec::new(),
            bases: BaseAddresses::default(),
            index: Vec::new(),
            entry: header.e_entry(endian),
            build_id: None,
        };
        for section in sections.iter() {
            if section.sh_type(endian) == SHT_NOTE && table.build_id.is_none() {
                table.build_id = build_id(section, endian, data);
            }
        }
        if let Some((_, section)) = sections.section_by_name(endian, b".eh_frame") {
            let len = section.sh_size(endian);
            if len > SECTION_MAX {
                return Err(ImageError::TooLarge(len));
            }
            table.frames = section.data(endian, data)?.to_vec();
            table.bases = table.bases.set_eh_frame(section.sh_addr(endian));
            if let Some((_, text)) = sections.section_by_name(endian, b".text") {
                table.bases = table.bases.set_text(text.sh_addr(endian));
            }
            let header = sections.section_by_name(endian, b".eh_frame_hdr");
            let sorted = header.and_then(|(_, section)| {
                table.bases = table.bases.clone().set_eh_frame_hdr(section.sh_addr(endian));
                table.sorted(section.data(endian, data).ok()?)
            });
            table.index = sorted.unwrap_or_else(|| table.listed());
        }
        Ok(table)
    }

    /// What distinguishes the image from others.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Bytes that it takes in memory.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.frames.len() + self.index.len() * size_of::<(u64, usize)>()
    }

    /// Whether there is no information on any code.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The rule for the instruction at this offset in the file, which is mapped at `ip`; `None` if there is no information on it.
    #[must_use]
    pub fn rule(&self, file_offset: u64, ip: u64) -> Option<Rule> {
        let addr = self.linked(file_offset)?;
        if addr == self.entry {
            return Some(Rule::ending(StackEnd::ROOT));
        }
        Some(self.rule_of(&self.entry_of(addr)?, addr, ip))
    }

    /// Bytes from the start of its function to the instruction at this offset in the file; `None` if there is no information on it.
    #[must_use]
    pub fn in_function(&self, file_offset: u64) -> Option<u64> {
        let addr = self.linked(file_offset)?;
        addr.checked_sub(self.entry_of(addr)?.initial_address())
    }

    /// Its executable segments.
    #[must_use]
    pub fn segments(&self) -> &[CodeSegment] {
        &self.segments
    }

    fn linked(&self, file_offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| segment.linked(file_offset))
    }

    /// The description of the function that holds `addr`.
    fn entry_of(&self, addr: u64) -> Option<FrameDescriptionEntry<Slice<'_>>> {
        let place = self.index.partition_point(|(first, _)| *first <= addr).checked_sub(1)?;
        let offset = self.index.get(place)?.1;
        let entry =
            self.section().fde_from_offset(&self.bases, offset.into(), EhFrame::cie_from_offset).ok()?;
        entry.contains(addr).then_some(entry)
    }

    fn rule_of(&self, entry: &FrameDescriptionEntry<Slice<'_>>, addr: u64, ip: u64) -> Rule {
        const UNSUPPORTED: Rule = Rule::ending(StackEnd::UNSUPPORTED);
        if entry.is_signal_trampoline() {
            return Rule::SIGNAL;
        }
        if entry.entry_len() > ENTRY_MAX {
            return UNSUPPORTED;
        }
        let mut context = UnwindContext::new();
        let Ok(row) = entry.unwind_info_for_address(&self.section(), &self.bases, &mut context, addr) else {
            return UNSUPPORTED;
        };
        self.translate(row, ip).unwrap_or(UNSUPPORTED)
    }

    /// The rule that `row` is; `None` if rules cannot express it.
    fn translate(&self, row: &UnwindTableRow<usize>, ip: u64) -> Option<Rule> {
        match row.register(X86_64::RA) {
            Some(RegisterRule::Offset(-8)) => {}
            Some(RegisterRule::Undefined) => return Some(Rule::ending(StackEnd::ROOT)),
            _ => return None,
        }
        let bytes = |expression: &gimli::UnwindExpression<usize>| {
            expression.get(&self.section()).ok().map(|expression| expression.0.slice())
        };
        let saved = match row.register(BP) {
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => None,
            Some(RegisterRule::Offset(offset)) => {
                Some(Saved { offset: i16::try_from(offset).ok()?, is_from_bp: false })
            }
            Some(RegisterRule::Expression(expression)) => {
                let offset = offset_from_bp(bytes(&expression)?)?;
                Some(Saved { offset: i16::try_from(offset).ok()?, is_from_bp: true })
            }
            Some(_) => return None,
        };
        let (base, offset) = match row.cfa() {
            CfaRule::RegisterAndOffset { register: SP, offset } => (Base::StackPointer, *offset),
            CfaRule::RegisterAndOffset { register: BP, offset } => (Base::FramePointer, *offset),
            CfaRule::RegisterAndOffset { .. } => return None,
            CfaRule::Expression(expression) => {
                let bytes = bytes(expression)?;
                match plt_offset(bytes, ip) {
                    Some(offset) => (Base::StackPointer, offset),
                    None => (Base::BehindFramePointer, offset_from_bp(bytes.strip_suffix(&[0x06])?)?),
                }
            }
        };
        Some(Rule::new(base, i32::try_from(offset).ok()?, saved))
    }

    fn section(&self) -> EhFrame<Slice<'_>> {
        EhFrame::new(&self.frames, LittleEndian)
    }

    /// The index that the linker made; `None` if there is none, or it is not to be read.
    fn sorted(&self, header: &[u8]) -> Option<Vec<(u64, usize)>> {
        let parsed = EhFrameHdr::new(header, LittleEndian).parse(&self.bases, 8).ok()?;
        let table = parsed.table()?;
        let mut index = Vec::new();
        let mut rows = table.iter(&self.bases);
        while let Some((first, entry)) = rows.next().ok()? {
            let (gimli::Pointer::Direct(first), gimli::Pointer::Direct(entry)) = (first, entry) else {
                return None;
            };
            let offset = entry.checked_sub(self.bases.eh_frame.section?)?;
            index.push((first, usize::try_from(offset).ok()?));
        }
        index.is_sorted().then_some(index).filter(|index| !index.is_empty())
    }

    /// An index made of the descriptions themselves.
    fn listed(&self) -> Vec<(u64, usize)> {
        let frames = self.section();
        let mut index = Vec::new();
        let mut entries = frames.entries(&self.bases);
        while let Ok(Some(entry)) = entries.next() {
            if let gimli::CieOrFde::Fde(partial) = entry
                && let Ok(entry) = partial.parse(EhFrame::cie_from_offset)
            {
                index.push((entry.initial_address(), entry.offset()));
            }
        }
        index.sort_unstable();
        index
    }
}

/// The offset of `DW_OP_breg6 (rbp)` alone.
fn offset_from_bp(expression: &[u8]) -> Option<i64> {
    let mut rest = Slice::new(expression.strip_prefix(&[0x76])?, LittleEndian);
    let offset = gimli::Reader::read_sleb128(&mut rest).ok()?;
    rest.is_empty().then_some(offset)
}

/// What is added to `rsp` for the CFA at `ip` in a procedure linkage table, if `expression` is the linker's for one.
fn plt_offset(expression: &[u8], ip: u64) -> Option<i64> {
    let [literal, rest @ ..] = expression.strip_prefix(&PLT_BEFORE)? else { return None };
    let from = literal.checked_sub(0x30).filter(|from| *from < 16)?;
    (rest == PLT_AFTER).then_some(if ip & 15 >= u64::from(from) { 16 } else { 8 })
}

/// `NT_GNU_BUILD_ID` in a section of notes.
fn build_id<'a, R: ReadRef<'a>>(
    section: &object::elf::SectionHeader64<Endianness>,
    endian: Endianness,
    data: R,
) -> Option<Box<[u8]>> {
    let mut notes = section.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == object::elf::ELF_NOTE_GNU && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID {
            // A linker may be asked for any length; 20 bytes are usual.
            return note.desc().get(..note.desc().len().min(24)).map(Box::from);
        }
    }
    None
}
