//! Memory that threads of `stacks` touch, and their signal handlers.

use std::{
    hint::black_box,
    io,
    sync::atomic::{AtomicPtr, Ordering},
    thread,
};

use memtrace_tests::{
    ledger::{Base, Step},
    memory::Mapping,
    task,
};

use super::{
    PAGES, Said, expect, function, ledger_touch,
    signals::{PAGES_PER_SIGNAL, SIGNALS, handle, ledger_trespass, stand_on},
    whole,
};

#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_thread(memory: &AtomicPtr<u8>) -> u32 {
    ledger_touch(memory.load(Ordering::Relaxed), PAGES);
    black_box(task::tid())
}

/// As [`ledger_trespass`], on a thread whose handlers run on `alternate`.
#[unsafe(no_mangle)]
#[inline(never)]
fn ledger_thread_trespass(alternate: &AtomicPtr<u8>, forbidden: &AtomicPtr<u8>) -> io::Result<u32> {
    stand_on(alternate.load(Ordering::Relaxed))?;
    ledger_trespass(forbidden.load(Ordering::Relaxed), SIGNALS);
    Ok(black_box(task::tid()))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) fn ledger_threads(said: &mut Said) -> io::Result<()> {
    let gone = |_| io::Error::other("the thread panicked");
    let start = |memory: &Mapping| AtomicPtr::new(memory.start());
    // Memory is mapped from above: what is mapped before the stack of a thread lies beyond it.
    let alternate = Mapping::anonymous(PAGES)?;
    let memory = Mapping::anonymous(PAGES)?;
    let place = start(&memory);
    let tid = thread::scope(|scope| scope.spawn(|| ledger_thread(&place)).join()).map_err(gone)?;
    let steps = vec![function("ledger_touch"), function("ledger_thread")];
    said.note("thread", whole(&memory, tid), steps, Base::Thread);

    let forbidden = Mapping::anonymous(SIGNALS)?;
    forbidden.forbid()?;
    let restorer = Step::Restorer(handle(libc::SIGSEGV, libc::SA_ONSTACK)?);
    let target = Mapping::anonymous(PAGES_PER_SIGNAL * SIGNALS)?;
    expect(&target);
    let places = [&alternate, &forbidden].map(start);
    let [stack, place] = &places;
    let tid = thread::scope(|scope| scope.spawn(|| ledger_thread_trespass(stack, place)).join());
    let tid = tid.map_err(gone)??;
    let [touch, handler, trespass, thread] =
        ["ledger_touch", "ledger_handle", "ledger_trespass", "ledger_thread_trespass"].map(function);
    let steps = vec![touch, handler, restorer, trespass, thread];
    said.note("handler of a thread, on a stack of its own", whole(&target, tid), steps, Base::Thread);
    said.far();
    said.held.extend([alternate, memory, forbidden, target]);
    Ok(())
}
