//! Where things are in the work tree, and how commands start there.

use std::{
    env,
    path::{Path, PathBuf},
};

use xshell::Shell;

/// The root of the work tree.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("xtask is a member of the workspace above it")
}

/// The directory that cargo builds into.
pub(crate) fn target() -> PathBuf {
    let directory = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(directory)
}

/// A shell that stands in [`root`].
pub(crate) fn shell() -> xshell::Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root());
    Ok(shell)
}
