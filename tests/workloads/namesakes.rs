//! Makes children one after the other that all have the process ID of the first, and do different things.
//!
//! Output: the ledger of the children as one line, a list of [`Namesake`].
//! Keeps: each child was reaped before the next is born.

use std::{ffi::CString, io};

use clap::Parser;
use memtrace_tests::{
    ledger::{self, Namesake},
    memory::Mapping,
    task,
};
use rustix::thread::set_name;

/// Make children that have the same process ID one after the other
#[derive(Parser)]
struct Args {
    /// Pages that each child writes to
    #[arg(required = true)]
    pages: Vec<usize>,
}

fn main() -> io::Result<()> {
    let mut pid = None;
    let mut ledger = Vec::new();
    for (index, pages) in Args::parse().pages.into_iter().enumerate() {
        let name = format!("child-{index}");
        let thread = CString::new(name.clone())?;
        let (child, charged) = task::in_child_with_id(pid, || {
            set_name(&thread).expect("a thread may name itself");
            let memory = Mapping::anonymous(pages).expect("a few pages");
            (0..pages).for_each(|page| memory.write(page));
        })?;
        pid = Some(child);
        ledger.push(Namesake { pid: child, name, charged });
    }
    ledger::print(&ledger)
}
