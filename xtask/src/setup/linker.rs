//! bpf-linker, built for the LLVM version of the compiler whose output it reads.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    packages::{self, Apt},
    say,
    toolchain::Compiler,
};
use crate::workspace;

const VERSION: &str = "0.13.0";

/// The LLVM versions that this release of bpf-linker has a feature for.
pub(super) const LLVM_MAJORS: [u32; 3] = [21, 22, 23];

/// The smallest program that shows whether the linker reads what the compiler writes.
const PROBE: &str =
    "#![no_std]\n#[unsafe(no_mangle)]\npub extern \"C\" fn probe(value: u64) -> u64 {\n    value ^ 1\n}\n";

/// Whether the installed linker really runs, and links this compiler's output.
pub(super) fn works_with(compiler: &Compiler) -> bool {
    workspace::find_program("bpf-linker").is_some_and(|linker| probe(&linker, compiler).unwrap_or(false))
}

fn probe(linker: &Path, compiler: &Compiler) -> Result<bool> {
    let dir = workspace::target_dir()?.join(format!("xtask-probe-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let linked = probe_in(&dir, linker, compiler);
    fs::remove_dir_all(&dir)?;
    linked
}

fn probe_in(dir: &Path, linker: &Path, compiler: &Compiler) -> Result<bool> {
    let (source, bitcode, object) = (dir.join("probe.rs"), dir.join("probe.bc"), dir.join("probe.o"));
    fs::write(&source, PROBE)?;
    let mut rustc = Command::new(compiler.rustc());
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "llvm-bc", "-Cpanic=abort", "-o"]);
    let mut link = Command::new(linker);
    link.args(["--target", "bpfel", "--export", "probe", "-o"]);
    Ok(succeeds(rustc.arg(&bitcode).arg(&source))? && succeeds(link.arg(&object).arg(&bitcode))? && object.exists())
}

fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

/// Whether a linker for this LLVM version can be built here.
pub(super) fn can_be_built(llvm_major: u32, apt: &mut Apt) -> bool {
    llvm_prefix(llvm_major).is_some() || apt.candidate(&format!("llvm-{llvm_major}-dev")).is_some()
}

/// Where this LLVM version is installed with its headers.
fn llvm_prefix(llvm_major: u32) -> Option<PathBuf> {
    let chosen = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm_major}"));
    chosen.into_iter().chain([debian]).find(|prefix| prefix.join("bin/llvm-config").exists())
}

/// Builds and installs the linker unless a fitting one is there.
pub(super) fn ensure(compiler: &Compiler, apt: &mut Apt) -> Result<()> {
    if works_with(compiler) {
        return Ok(());
    }
    let llvm = compiler.llvm_major();
    let (llvm_dev, polly_dev) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    let libraries = [llvm_dev.as_str(), polly_dev.as_str(), "zlib1g-dev", "libzstd-dev", "libxml2-dev"];
    if workspace::find_program("dpkg-query").is_some() {
        apt.install(&packages::not_installed(&libraries))?;
    }
    let prefix = llvm_prefix(llvm).with_context(|| {
        format!("bpf-linker needs LLVM {llvm} with its headers: install it and set LLVM_PREFIX to where it lies")
    })?;
    say(&format!("building bpf-linker {VERSION} for LLVM {llvm} (a minute or two)"));
    let feature = format!("llvm-{llvm}");
    let mut install = workspace::cargo(["install", "bpf-linker", "--locked", "--force", "--quiet"]);
    install.args(["--version", VERSION, "--no-default-features", "--features", &feature]);
    // Not the user's own: a workspace's setting would put the build into its target directory for good.
    install.env("LLVM_PREFIX", prefix).env_remove("CARGO_TARGET_DIR").stdout(Stdio::null());
    workspace::run(&mut install)?;
    if works_with(compiler) {
        return Ok(());
    }
    let path = workspace::find_program("bpf-linker").unwrap_or_default();
    bail!(
        "bpf-linker {VERSION} is installed, but {} does not link what {} compiles; \
         if it is an older one, remove it or put {} before it on PATH",
        path.display(),
        compiler.rustc().display(),
        workspace::cargo_bin_dir().unwrap_or_default().display()
    )
}
