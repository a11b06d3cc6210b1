//! Enforces the rules of the house that no compiler knows: the code map of ARCHITECTURE.md, sizes, who may import what.

mod map;
mod paths;
mod rules;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use crate::workspace;
use source::Source;

const MAP_FILE: &str = "ARCHITECTURE.md";

/// One complaint; the message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

pub(crate) fn command() -> Result<ExitCode> {
    Ok(if report()? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what is wrong; returns how many things are.
pub(crate) fn report() -> Result<usize> {
    let root = workspace::root();
    let files = text_files(&root)?;
    let mut findings: Vec<Finding> = files.iter().flat_map(|(path, text)| rules::host_names(path, text)).collect();
    let sources = files.iter().filter(|(path, _)| is_rust(path)).map(|(path, text)| Source::new(path, text));
    findings.extend(sources.flat_map(|source| rules::all(&source)));
    match files.iter().find(|(path, _)| path == MAP_FILE) {
        Some((_, text)) => {
            let rust_files: Vec<&str> =
                files.iter().map(|(path, _)| path.as_str()).filter(|path| is_rust(path)).collect();
            findings.extend(map::compare(&map::parse(text), &rust_files, &|path| root.join(path).exists()));
        }
        None => findings.push(Finding::new(MAP_FILE, 1, "does not exist, and is to hold the code map")),
    }
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    eprintln!("tidy: {} files, {} complaints", files.len(), findings.len());
    Ok(findings.len())
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// What tools write.
const WRITTEN: [&str; 7] =
    ["target", ".git", "Cargo.lock", "fuzz/target", "fuzz/Cargo.lock", "fuzz/corpus", "fuzz/artifacts"];

/// Every text file of the checkout, by its path in it; without what tools write.
fn text_files(root: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(root.join(&dir)).with_context(|| format!("the directory {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let (kind, name) = (entry.file_type()?, path.to_string_lossy().into_owned());
            if WRITTEN.contains(&name.as_str()) {
                continue;
            }
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                // Binary files have no rules.
                let bytes = fs::read(entry.path()).with_context(|| name.clone())?;
                files.extend(String::from_utf8(bytes).ok().map(|text| (name, text)));
            }
        }
    }
    files.sort();
    Ok(files)
}
