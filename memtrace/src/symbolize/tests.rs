//! Names of code of this very program.

use super::*;
use crate::{probe, unwind::UnwindTable};

/// Some function, to be found by its name.
#[inline(never)]
fn in_question() -> usize {
    std::hint::black_box(in_question as fn() -> usize) as usize
}

/// This program, where `addr` is in it, and where it is linked.
fn own(addr: usize) -> (Arc<File>, u64, Vec<CodeSegment>, Option<u64>) {
    let maps = probe::maps_of(crate::event::Tgid(std::process::id())).expect("maps can be read");
    let addr = crate::units::VirtAddr::from_raw(addr as u64);
    let vma = maps.vmas.iter().find(|vma| vma.range.contains(addr)).expect("it is mapped");
    let offset = addr.as_raw() - vma.range.start().as_raw() + vma.offset;
    let file = File::open("/proc/self/exe").expect("it is there");
    let table = UnwindTable::parse(&object::read::ReadCache::new(&file)).expect("it is an ELF file");
    (Arc::new(file), offset, table.segments().to_vec(), table.in_function(offset))
}

fn named(unnamed: Unnamed) -> Vec<NamedCode> {
    let symbols = name(vec![unnamed], &[], &AtomicBool::new(false));
    symbols.into_iter().flat_map(|symbols| symbols.code).collect()
}

#[test]
fn function_of_a_file_has_its_name_and_line() {
    let (file, offset, segments, in_function) = own(in_question() + 1);
    assert_eq!(in_function, Some(1), "as the unwind table says");
    let code = BTreeMap::from([(offset, in_function)]);
    let names = Names::Elf(file);
    let [NamedCode { at, functions, .. }] =
        &named(Unnamed { file: CodeFile::Inode((8, 1), 5), names, segments, code })[..]
    else {
        panic!("one place has one name");
    };
    let compiled = functions.last().expect("it is in a function");
    let text =
        |bytes: &Option<Arc<[u8]>>| String::from_utf8_lossy(bytes.as_ref().expect("known")).into_owned();
    assert_eq!(*at, offset);
    assert!(text(&compiled.name).ends_with("symbolize::tests::in_question"), "{functions:?}");
    assert!(text(&compiled.source_file).ends_with("symbolize/tests.rs"), "{functions:?}");
    assert_eq!(compiled.offset, Some(1));
}

#[test]
fn code_without_a_name_has_the_start_of_its_function() {
    let code = BTreeMap::from([(0x1010, Some(0x10)), (0x2000, None)]);
    let unnamed =
        Unnamed { file: CodeFile::Inode((8, 1), 5), names: Names::Nowhere, segments: Vec::new(), code };

    let found = named(unnamed);

    let start = Function { offset: Some(0x10), ..Function::default() };
    assert_eq!(found, [NamedCode { at: 0x1010, since: Timestamp::default(), functions: [start].into() }]);
}

#[test]
fn nothing_is_named_when_it_is_to_stop() {
    let (file, offset, segments, _) = own(in_question());
    let code = BTreeMap::from([(offset, None)]);
    let unnamed = Unnamed { file: CodeFile::Inode((8, 1), 5), names: Names::Elf(file), segments, code };

    assert_eq!(name(vec![unnamed], &[], &AtomicBool::new(true)), []);
}

#[test]
fn what_is_no_elf_file_has_no_names() {
    let file = Arc::new(File::open("/proc/self/status").expect("it is there"));
    let code = BTreeMap::from([(0x1000, None)]);
    let unnamed =
        Unnamed { file: CodeFile::Inode((8, 1), 5), names: Names::Elf(file), segments: Vec::new(), code };

    assert_eq!(named(unnamed), []);
}
