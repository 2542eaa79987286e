//! What a guest needs to run the privileged tier: its programs and theirs.
//!
//! Input: a [`Tier`], and the programs of this machine. Output: an [`Initramfs`].
//! Keeps: everything is at the path that it has here, for tests know their programs by path. A program that this
//! machine does not have is left out, and the tests that need it skip.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use xshell::{Shell, cmd};

use super::{
    initramfs::Initramfs,
    tier::{Machine, Tier},
};
use crate::oracles;

/// The first process.
const INIT: &str = include_str!("init.sh");

/// Where a guest's programs are looked for, here and there.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Programs that are whole with the libraries that they are linked with.
const PROGRAMS: [&str; 63] = [
    "sh", "bash", "awk", "basename", "cat", "chmod", "chown", "chroot", "chrt", "cp", "cut", "date", "dd",
    "df", "dirname", "du", "echo", "env", "expr", "false", "find", "grep", "head", "hostname", "id", "kill",
    "ln", "ls", "md5sum", "mkdir", "mkfifo", "mktemp", "mount", "mv", "nice", "nohup", "nproc", "printf",
    "prlimit", "ps", "readlink", "rm", "rmdir", "sed", "seq", "setpriv", "setsid", "sleep", "sort",
    "sqlite3", "stat", "sync", "tail", "taskset", "tee", "test", "timeout", "touch", "tr", "true", "umount",
    "uname", "unshare",
];

/// What `gcc` starts, and what those read to make a program.
const COMPILER_PROGRAMS: [&str; 5] = ["cc1", "collect2", "lto-wrapper", "as", "ld"];
const COMPILER_FILES: [&str; 15] = [
    "crt1.o",
    "Scrt1.o",
    "crti.o",
    "crtn.o",
    "crtbegin.o",
    "crtbeginS.o",
    "crtend.o",
    "crtendS.o",
    "libc.so",
    "libc.so.6",
    "libc_nonshared.a",
    "libgcc.a",
    "libgcc_s.so",
    "libgcc_s.so.1",
    "liblto_plugin.so",
];

/// Beginnings of the names of what is large in Python's library, and what no test needs.
const PYTHON_LEAVES: [&str; 12] = [
    "__pycache__",
    "config-",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
    "unittest",
];

/// Directories below `/usr/share/doc`: a listing has something to list.
const LISTED: usize = 200;

/// Collects what `tier` needs; copies without debug information are put into `stripped`.
pub(super) fn initramfs(
    shell: &Shell,
    tier: &Tier,
    arguments: &[&str],
    stripped: &Path,
) -> anyhow::Result<Initramfs> {
    let mut guest = Initramfs::default();
    skeleton(&mut guest)?;
    add_busybox(shell, &mut guest)?;
    for name in PROGRAMS {
        if let Some(path) = find(name) {
            guest.program(shell, &path)?;
        }
    }
    add_python(shell, &mut guest)?;
    add_compiler(shell, &mut guest)?;
    add_oracles(shell, &mut guest)?;

    fs::create_dir_all(stripped)?;
    for path in tier.tests.iter().map(|(_, path)| path).chain(&tier.programs) {
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        let copy = stripped.join(name);
        cmd!(shell, "strip --strip-debug -o {copy} {path}").quiet().run()?;
        guest.copy_as(path, copy)?;
        guest.libraries(shell, path)?;
    }
    guest.text("/init", INIT, 0o755);
    for (name, text) in tier.orders(Machine::Guest, arguments)? {
        guest.text(Path::new("/memtrace").join(name), text, 0o644);
    }
    Ok(guest)
}

/// page-types; thpmaps takes more of python than there is.
fn add_oracles(shell: &Shell, guest: &mut Initramfs) -> anyhow::Result<()> {
    let Some(directory) = oracles::fetch_or_say(shell) else {
        return Ok(());
    };
    guest.program(shell, &directory.join("page-types"))?;
    guest.text("/memtrace/oracles", format!("{}\n", directory.display()), 0o644);
    Ok(())
}

/// Directories and files that programs expect everywhere.
fn skeleton(guest: &mut Initramfs) -> anyhow::Result<()> {
    for path in ["/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin"] {
        if Path::new(path).exists() {
            let _ = guest.copy(Path::new(path))?;
        }
    }
    for path in ["/dev", "/etc", "/proc", "/run", "/sys"] {
        guest.directory(path, 0o755);
    }
    for path in ["/tmp", "/var/tmp"] {
        guest.directory(path, 0o1777);
    }
    guest.directory("/root", 0o700);
    guest.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644);
    guest.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);
    guest.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n", 0o644);
    guest.text("/etc/hosts", "127.0.0.1 localhost memtrace\n", 0o644);
    for number in 0..LISTED {
        for name in ["changelog.gz", "copyright"] {
            guest.text(format!("/usr/share/doc/package-{number}/{name}"), "", 0o644);
        }
    }
    Ok(())
}

/// The shell of the first process, which has to run before there is anything else.
fn add_busybox(shell: &Shell, guest: &mut Initramfs) -> anyhow::Result<()> {
    let needed = "apt-get install busybox-static";
    let path = find("busybox").with_context(|| format!("busybox is not installed: {needed}"))?;
    if cmd!(shell, "ldd {path}").quiet().ignore_stdout().ignore_stderr().run().is_ok() {
        bail!("{} is not linked statically: {needed}", path.display());
    }
    let path = guest.copy(&path)?;
    if fs::canonicalize("/bin/busybox").ok().as_ref() != Some(&path) {
        guest.link("/bin/busybox", path);
    }
    Ok(())
}

/// The interpreter itself, whatever starts it here, and its library.
fn add_python(shell: &Shell, guest: &mut Initramfs) -> anyhow::Result<()> {
    let installed = find("python3");
    let python = installed.clone().unwrap_or_else(|| PathBuf::from("python3"));
    let script = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); \
                  print(sysconfig.get_paths()['stdlib'])";
    let Ok(paths) = cmd!(shell, "{python} -I -c {script}").quiet().ignore_stderr().read() else {
        return Ok(());
    };
    let (executable, library) = paths.split_once('\n').context("python3 does not say where it is")?;
    guest.program(shell, Path::new(executable))?;
    guest.tree(Path::new(library), &PYTHON_LEAVES)?;
    match installed {
        Some(path) => drop(guest.copy(&path)?),
        None => guest.link("/usr/bin/python3", executable),
    }
    Ok(())
}

/// `gcc` with what it takes to compile and link a program without headers.
fn add_compiler(shell: &Shell, guest: &mut Initramfs) -> anyhow::Result<()> {
    let Some(gcc) = find("gcc") else {
        return Ok(());
    };
    guest.program(shell, &gcc)?;
    for name in COMPILER_PROGRAMS {
        let path = PathBuf::from(cmd!(shell, "{gcc} -print-prog-name={name}").quiet().read()?);
        // A name alone is one that it leaves to PATH.
        if let Some(path) = if path.is_absolute() { Some(path) } else { find(name) } {
            guest.program(shell, &path)?;
        }
    }
    for name in COMPILER_FILES {
        let path = PathBuf::from(cmd!(shell, "{gcc} -print-file-name={name}").quiet().read()?);
        if path.is_absolute() && path.exists() {
            guest.program(shell, &path)?;
        }
    }
    // Compilers refuse to start without any directory of headers; this one file is read whatever the program says.
    let header = Path::new("/usr/include/stdc-predef.h");
    if header.exists() {
        let _ = guest.copy(header)?;
    }
    Ok(())
}

/// The path of the program `name`, where guests look for it.
fn find(name: &str) -> Option<PathBuf> {
    PATH.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}
