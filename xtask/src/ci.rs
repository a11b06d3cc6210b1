//! Just what CI runs: the script is the one place that says what that is.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Error, Result};

use crate::workspace;

pub(crate) fn command() -> Result<ExitCode> {
    let script = workspace::root().join(".ci/run");
    let error = workspace::command(&script).exec();
    Err(Error::new(error)).with_context(|| format!("{} does not start", script.display()))
}
