//! Starts the one program that needs privileges with them, and nothing else.

use std::{env, path::Path, process::Command};

use xshell::{Shell, cmd};

/// Whether this process is root, or what can make a child so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// `sudo` is installed.
    Sudo,
    /// Neither; memtrace itself says what it misses.
    None,
}

impl Privilege {
    /// Finds out which it is.
    pub(crate) fn find(shell: &Shell) -> Self {
        if cmd!(shell, "id -u").quiet().read().is_ok_and(|uid| uid == "0") {
            Self::Root
        } else if cmd!(shell, "sudo --version").quiet().ignore_stderr().read().is_ok() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// The command that runs `program`, with privileges where there are any to have.
    ///
    /// `sudo` replaces `PATH` whatever `-E` says, and the traced command is looked up in it.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Self::Root | Self::None => Command::new(program),
            Self::Sudo => {
                let mut path = std::ffi::OsString::from("PATH=");
                path.push(env::var_os("PATH").unwrap_or_default());
                let mut command = Command::new("sudo");
                command.args(["-E", "--", "env"]).arg(path).arg(program);
                command
            }
        }
    }
}
