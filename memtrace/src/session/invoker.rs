//! The user behind sudo: whose command it is, and whose files.
//!
//! Layer: shell. Input: `SUDO_UID`, `SUDO_GID`, `SUDO_USER`, `/etc/passwd`. Output: [`Invoker`].
//! Source: `sudo(8)`, section ENVIRONMENT.
//! Keeps: without sudo there is no invoker, and nothing changes hands.
//! Not here: changing the IDs of a whole process (`sys::process`).

use std::{env, ffi::CString, fs, io, panic, process::Command, thread};

use rustix::{
    process::{dumpable_behavior, set_dumpable_behavior},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
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

    /// What `act` returns with the rights of this user and no others.
    ///
    /// The kernel keeps rights by thread, so `act` runs on one of its own, and they end with that.
    pub fn act<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        let groups = process::groups_of(&CString::new(self.name.as_str())?, self.gid)?;
        let (uid, gid) = (rustix::process::Uid::from_raw(self.uid), rustix::process::Gid::from_raw(self.gid));
        let groups: Vec<_> = groups.into_iter().map(rustix::process::Gid::from_raw).collect();
        // A change of IDs takes it away (`commit_creds` of kernel/cred.c), which keeps the user off this process meanwhile.
        let dumpable = dumpable_behavior()?;
        let acted = thread::scope(|scope| {
            let acting = thread::Builder::new().spawn_scoped(scope, move || {
                set_thread_groups(&groups)?;
                set_thread_res_gid(gid, gid, gid)?;
                set_thread_res_uid(uid, uid, uid)?;
                Ok(act())
            })?;
            acting.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
        });
        set_dumpable_behavior(dumpable)?;
        acted
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
