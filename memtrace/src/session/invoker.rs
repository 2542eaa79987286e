//! The user behind sudo: whose command it is, and whose files.
//!
//! Layer: shell. Input: `SUDO_UID`, `SUDO_GID`, `SUDO_USER`, `/etc/passwd`. Output: [`Invoker`].
//! Source: `sudo(8)`, section ENVIRONMENT.
//! Keeps: without sudo there is no invoker, and nothing changes hands.
//! Not here: changing IDs (`sys::process`).

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::fs::fchown,
    process::Command,
};

use crate::sys::process;

/// A user who runs memtrace through sudo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoker {
    uid: u32,
    gid: u32,
    name: String,
    home: Option<String>,
}

impl Invoker {
    /// The user who called sudo; `None` if memtrace does not run as root, or root called sudo.
    #[must_use]
    pub fn find() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let number = |name| env::var(name).ok()?.parse::<u32>().ok();
        let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(Self {
            uid,
            gid: number("SUDO_GID")?,
            name: env::var("SUDO_USER").ok()?,
            home: home_of(uid, &passwd),
        })
    }

    /// Name of the user.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes `file` theirs.
    pub fn own(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))
    }

    /// Makes this process theirs, for good, and `command` find their environment.
    pub fn take_over(&self, command: &mut Command) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        process::become_user(self.uid, self.gid, &name)?;
        for variable in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"] {
            command.env_remove(variable);
        }
        command.env("USER", &self.name).env("LOGNAME", &self.name);
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        Ok(())
    }
}

/// Home directory of `uid` in the text of `/etc/passwd`.
fn home_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let is_uid = fields.get(2)?.parse() == Ok(uid);
        is_uid.then(|| fields.get(5).map(|&home| home.to_owned())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann,,:/home/ann:/bin/zsh\n";

        assert_eq!(home_of(1000, passwd).as_deref(), Some("/home/ann"));
        assert_eq!(home_of(1001, passwd), None);
    }
}
