//! `grayxdp check`, and reading config files for all commands.

use std::{fs, path::Path};

use serde_json::json;

use super::{args::Output, error::CliError, print};
use crate::config::Config;

/// Reads and checks a config file.
pub(super) fn load(path: &Path) -> Result<Config, CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::ConfigFile { path: path.to_owned(), source })?;
    Ok(Config::parse(&path.to_string_lossy(), &text)?)
}

pub(super) fn execute(path: &Path, output: Output) -> Result<(), CliError> {
    let config = load(path)?;
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    match output {
        Output::Json => print::json(&json!({ "ok": true, "services": names })),
        Output::Text => {
            let plural = if names.len() == 1 { "" } else { "s" };
            print::text(&format!("{}: ok, {} service{plural}: {}\n", path.display(), names.len(), names.join(", ")))
        }
    }
}
