use std::{fs::File, os::unix::fs::FileExt as _};

use memtrace_ebpf::{Base, FrameWord, Registers, Rule, STACK_FRAMES, Saved, StackEnd};
use proptest::prelude::*;

use super::*;

const SP: u64 = 0x7ffc_0000_1000;

/// A stack whose words from [`SP`] on are these.
fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn registers(ip: u64, bp: u64) -> Registers {
    Registers { ip, sp: SP, bp, is_return: 0 }
}

/// What is found from `ip` on, where `rules` has the rules by program counter.
fn frames(words: &[u64], at: Registers, rules: &[(u64, Rule)]) -> (Vec<u64>, StackEnd) {
    let bytes = bytes_of(words);
    let mut found = vec![at.ip];
    let rule = |at: &Registers, _: Option<u64>| {
        let rule = rules.iter().find(|(ip, _)| *ip == at.ip);
        rule.map_or(Rule::ending(StackEnd::NO_CODE), |(_, rule)| *rule)
    };
    let end = unwind(&mut found, at, StackBytes { start: SP, bytes: &bytes }, rule);
    (found, end)
}

fn by_sp(offset: i32) -> Rule {
    Rule::new(Base::StackPointer, offset, None)
}

#[test]
fn frames_follow_one_another_to_the_root() {
    // leaf: nothing pushed; middle: rbp and 8 bytes pushed; main: by rbp; start: no return address.
    let (leaf, middle, main, start) = (0x40_1000, 0x40_2000, 0x40_3000, 0x40_4000);
    let saved = Some(Saved { offset: -16, is_from_bp: false });
    let rules = [
        (leaf, by_sp(8)),
        (middle, Rule::new(Base::StackPointer, 24, saved)),
        (main, Rule::new(Base::FramePointer, 16, saved)),
        (start, Rule::ending(StackEnd::ROOT)),
    ];
    let bp_of_main = SP + 8 * 5;
    let words = [middle, 1, bp_of_main, main, 2, 0, start];

    let (found, end) = frames(&words, registers(leaf, 0x1234), &rules);

    let returned = |ip| ip | FrameWord::IS_RETURN;
    assert_eq!(found, [leaf, returned(middle), returned(main), returned(start)]);
    assert_eq!(end, StackEnd::ROOT);
}

#[test]
fn what_a_signal_interrupted_follows_its_handler() {
    let (handler, restorer, interrupted) = (0x40_1000, 0x7f00_0000_1000, 0x40_2000);
    let rules = [(handler, by_sp(8)), (restorer, Rule::SIGNAL), (interrupted, Rule::ending(StackEnd::ROOT))];
    // The frame of the restorer begins behind its return address: `ucontext` with rbp, rsp and rip at 120, 160 and 168 bytes.
    let mut words = vec![0; 1 + 22];
    words[0] = restorer;
    (words[1 + 15], words[1 + 20], words[1 + 21]) = (0x77, SP - 0x1_0000, interrupted);

    let (found, end) = frames(&words, registers(handler, 0), &rules);

    assert_eq!(found, [handler, restorer | FrameWord::IS_RETURN, interrupted]);
    assert_eq!(end, StackEnd::ROOT);
}

#[test]
fn ends_say_why() {
    let ip = 0x40_1000;
    let end_of = |words: &[u64], bp, rule| frames(words, registers(ip, bp), &[(ip, rule)]);
    let only = vec![ip];

    assert_eq!(end_of(&[0x40_2000], 0, by_sp(8)).1, StackEnd::NO_CODE);
    assert_eq!(end_of(&[0], 0, by_sp(8)), (only.clone(), StackEnd::UNREADABLE));
    assert_eq!(end_of(&[1], 0, by_sp(16)), (only.clone(), StackEnd::BEYOND_DUMP));
    assert_eq!(end_of(&[1], 0, by_sp(-8)), (only.clone(), StackEnd::ASTRAY));
    assert_eq!(end_of(&[1, 2, 3], SP - 16, Rule::CHAIN).1, StackEnd::ASTRAY);
    assert_eq!(end_of(&[1, 2, 3], SP - 8, Rule::CHAIN), (only, StackEnd::NO_FRAME_POINTER));
}

#[test]
fn endless_recursion_is_too_deep() {
    let ip = 0x40_1000;
    let words = vec![ip; 2 * STACK_FRAMES];

    let (found, end) = frames(&words, registers(ip, 0), &[(ip, by_sp(8))]);

    assert_eq!((found.len(), end), (STACK_FRAMES, StackEnd::TOO_DEEP));
}

/// The vDSO, which the kernel links: where it is mapped, and its bytes.
fn vdso() -> (u64, Vec<u8>) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("x86-64 has one");
    let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
    let addr = |text| u64::from_str_radix(text, 16).expect("hexadecimal digits");
    let (start, end) = (addr(start), addr(end));
    let mut image = vec![0; usize::try_from(end - start).expect("two pages")];
    File::open("/proc/self/mem").and_then(|mem| mem.read_exact_at(&mut image, start)).expect("own memory");
    (start, image)
}

#[test]
fn functions_begin_with_their_return_address_on_top() {
    let (_, image) = vdso();
    let table = UnwindTable::parse(&image[..]).expect("the kernel links it");
    let file = object::File::parse(&image[..]).expect("an ELF image");
    let functions = object::Object::dynamic_symbols(&file)
        .filter(|symbol| object::ObjectSymbol::kind(symbol) == object::SymbolKind::Text);
    let mut count = 0;
    for function in functions {
        let addr = object::ObjectSymbol::address(&function);
        assert_eq!(table.rule(addr, addr), Some(by_sp(8)), "{addr:#x}");
        count += 1;
    }
    assert!(count > 2, "gettimeofday, clock_gettime and time at least");
    assert!(!table.is_empty());
    assert!(table.build_id().is_some_and(|id| id.len() == 20), "{:?}", table.build_id());
    assert_eq!(table.rule(image.len() as u64, 0), None, "behind the code");
}

proptest! {
    #[test]
    fn damaged_images_do_not_panic(edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..20)) {
        let (_, mut image) = vdso();
        for (place, byte) in edits {
            let place = place.index(image.len());
            image[place] = byte;
        }
        if let Ok(table) = UnwindTable::parse(&image[..]) {
            for offset in (0..image.len() as u64).step_by(7) {
                let _rule = table.rule(offset, offset);
            }
        }
    }
}
