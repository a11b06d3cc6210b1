//! The compiler of the packet program: any that has its library sources and an LLVM that a linker can be had for.
//!
//! With rustup it gets the name `bpf`, which the agent's build script asks for; without, it is the one on PATH.
//! A stable compiler will do: the build script sets `RUSTC_BOOTSTRAP`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{linker, packages::Apt, say};
use crate::workspace;

const NAME: &str = "bpf";

/// Sets of Debian packages with a compiler, cargo and sources; the first is the one that browsers are built with.
const DEBIAN_SETS: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// A Rust compiler and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Compiler {
    pub(super) sysroot: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    release: (u32, u32),
    llvm_major: u32,
}

impl Compiler {
    fn in_sysroot(sysroot: &Path) -> Option<Self> {
        let text = output_of(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?;
        Some(Self { sysroot: sysroot.to_path_buf(), version: version_in(&text)? })
    }

    pub(super) fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    pub(super) fn llvm_major(&self) -> u32 {
        self.version.llvm_major
    }

    /// Why it can't build the packet program.
    fn flaw(&self) -> Option<String> {
        let wanted = release_in(env!("CARGO_PKG_RUST_VERSION")).unwrap_or_default();
        let (major, minor) = self.version.release;
        if self.version.release < wanted {
            return Some(format!("is {major}.{minor}, older than {}.{}", wanted.0, wanted.1));
        }
        if !self.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
            return Some("has no library sources".to_owned());
        }
        if !self.sysroot.join("bin/cargo").exists() {
            return Some("has no cargo".to_owned());
        }
        if !linker::LLVM_MAJORS.contains(&self.llvm_major()) {
            return Some(format!("has LLVM {}, which bpf-linker can't read", self.llvm_major()));
        }
        None
    }

    /// Why it can't be used on this machine, be it that packages are installed.
    fn flaw_here(&self, apt: &mut Apt) -> Option<String> {
        self.flaw().or_else(|| {
            let llvm = self.llvm_major();
            let linkable = linker::works_with(self) || linker::can_be_built(llvm, apt);
            (!linkable).then(|| format!("has LLVM {llvm}, and there is no package llvm-{llvm}-dev"))
        })
    }
}

/// The compiler that the agent's build script would use now.
pub(super) fn installed() -> Option<Compiler> {
    let sysroot = if has_rustup() {
        toolchain_dir()?
    } else {
        PathBuf::from(output_of(Command::new("rustc").args(["--print", "sysroot"]))?.trim())
    };
    Compiler::in_sysroot(&sysroot).filter(|compiler| compiler.flaw().is_none())
}

/// Takes the first that works: a compiler that is here, rustup, Debian's packages.
pub(super) fn ensure(apt: &mut Apt) -> Result<Compiler> {
    if let Some(compiler) = installed()
        && compiler.flaw_here(apt).is_none()
    {
        return Ok(compiler);
    }
    let mut tried = Vec::new();
    for (name, sysroot) in toolchains_here() {
        if let Some(compiler) = usable(&name, &sysroot, apt, &mut tried) {
            return adopt(&name, compiler);
        }
    }
    if has_rustup() {
        if env::var_os("RUSTUP_AUTO_INSTALL").is_some_and(|value| value == "0") {
            tried.push("rustup is not to download anything (RUSTUP_AUTO_INSTALL=0)".to_owned());
        } else if let Some((name, compiler)) = from_rustup(apt, &mut tried) {
            return adopt(&name, compiler);
        }
    }
    if let Some(compiler) = from_debian(apt, &mut tried)? {
        return adopt("Debian's Rust", compiler);
    }
    bail!(
        "the packet program needs a Rust compiler with its library sources, and none can be had: {}. \
         Install Debian's {}, or run `rustup component add rust-src`, then `cargo xtask setup` again",
        tried.join("; "),
        DEBIAN_SETS[0].join(" ")
    )
}

fn usable(name: &str, sysroot: &Path, apt: &mut Apt, tried: &mut Vec<String>) -> Option<Compiler> {
    let compiler = Compiler::in_sysroot(sysroot)?;
    match compiler.flaw_here(apt) {
        None => Some(compiler),
        Some(flaw) => {
            tried.push(format!("{name} {flaw}"));
            None
        }
    }
}

fn from_rustup(apt: &mut Apt, tried: &mut Vec<String>) -> Option<(String, Compiler)> {
    // The running compiler's own sources are the smaller download.
    for (what, args) in [
        ("library sources of the active toolchain", &["component", "add", "rust-src"][..]),
        (
            "nightly with library sources",
            &["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"][..],
        ),
    ] {
        let mut rustup = workspace::command("rustup");
        rustup.args(args).stdout(Stdio::null());
        say(&format!("installing {what} (`{}`)", workspace::describe(&rustup)));
        if let Err(error) = workspace::run(&mut rustup) {
            tried.push(format!("{error:#}"));
            continue;
        }
        for (name, sysroot) in toolchains_here() {
            if let Some(compiler) = usable(&name, &sysroot, apt, tried) {
                return Some((name, compiler));
            }
        }
    }
    None
}

fn from_debian(apt: &mut Apt, tried: &mut Vec<String>) -> Result<Option<Compiler>> {
    let wanted = release_in(env!("CARGO_PKG_RUST_VERSION")).unwrap_or_default();
    for set in DEBIAN_SETS {
        let offered = apt.candidate(set[0]).and_then(|version| release_in(&version));
        match offered {
            Some(release) if release >= wanted => {
                apt.install(&set)?;
                let compiler = usable("Debian's Rust", Path::new("/usr"), apt, tried);
                if compiler.is_some() {
                    return Ok(compiler);
                }
            }
            Some((major, minor)) => tried.push(format!("Debian's {} is {major}.{minor}", set[0])),
            None => tried.push(format!("Debian's {} is not offered", set[0])),
        }
    }
    Ok(None)
}

/// Gives the compiler the name that the build script asks for.
fn adopt(name: &str, compiler: Compiler) -> Result<Compiler> {
    let path = compiler.sysroot.display();
    if !has_rustup() {
        if installed().as_ref() == Some(&compiler) {
            return Ok(compiler);
        }
        bail!(
            "{name} in {path} can build the packet program, but another rustc comes first on PATH, and has no sources"
        );
    }
    if let Some(dir) = toolchain_dir().filter(|dir| dir.symlink_metadata().is_ok_and(|metadata| !metadata.is_symlink()))
    {
        bail!(
            "rustup has a toolchain `{NAME}` of its own in {}; remove it with `rustup toolchain uninstall {NAME}`",
            dir.display()
        );
    }
    say(&format!("naming {name} ({path}) `{NAME}` for rustup: it has library sources"));
    let mut rustup = workspace::command("rustup");
    rustup.args(["toolchain", "link", NAME]).arg(&compiler.sysroot).stdout(Stdio::null());
    workspace::run(&mut rustup)?;
    Ok(compiler)
}

/// Every compiler on this machine, by name and sysroot.
fn toolchains_here() -> Vec<(String, PathBuf)> {
    let list = has_rustup().then(|| output_of(Command::new("rustup").args(["toolchain", "list", "-v"]))).flatten();
    let mut found = list.map(|text| toolchains_in(&text)).unwrap_or_default();
    found.retain(|(name, _)| name != NAME);
    found.push(("Debian's Rust".to_owned(), PathBuf::from("/usr")));
    found
}

fn has_rustup() -> bool {
    workspace::find_program("rustup").is_some()
}

fn toolchain_dir() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let dir = home.or_else(|| env::home_dir().map(|dir| dir.join(".rustup")))?.join("toolchains").join(NAME);
    fs::symlink_metadata(&dir).is_ok().then_some(dir)
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `rustc -vV`.
fn version_in(text: &str) -> Option<Version> {
    let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    Some(Version { release: release_in(line("release: ")?)?, llvm_major: release_in(line("LLVM version: ")?)?.0 })
}

/// The first two numbers: `1.96.0+dfsg1-1` is (1, 96).
fn release_in(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// Reads `rustup toolchain list -v`: a name, perhaps notes in parentheses, a path.
fn toolchains_in(list: &str) -> Vec<(String, PathBuf)> {
    let parse =
        |line: &str| Some((line.split_whitespace().next()?.to_owned(), PathBuf::from(&line[line.find('/')?..])));
    list.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_compilers_own_words() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.96.0-nightly\nLLVM version: 22.1.8\n";
        assert_eq!(version_in(text), Some(Version { release: (1, 96), llvm_major: 22 }));
        assert_eq!(version_in("rustc 1.96.0\n"), None);
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (text, expected) in [
            ("1.96.0+dfsg1-1~deb12u2", Some((1, 96))),
            ("1.95", Some((1, 95))),
            ("22", Some((22, 0))),
            ("", None),
            ("none", None),
        ] {
            assert_eq!(release_in(text), expected, "{text}");
        }
        assert!(release_in("1.100.0") > release_in("1.96.0"));
    }

    #[test]
    fn toolchains_are_read_with_and_without_notes() {
        let list = "stable-x86_64 (active, default) /root/.rustup/toolchains/stable-x86_64\nbpf /usr\n\n";
        let expected = [("stable-x86_64", "/root/.rustup/toolchains/stable-x86_64"), ("bpf", "/usr")]
            .map(|(a, b)| (a.into(), b.into()));
        assert_eq!(toolchains_in(list), expected);
    }
}
