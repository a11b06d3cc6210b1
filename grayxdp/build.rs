//! Builds the packet program for the bpf target; `kernel/load.rs` embeds the object.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

/// The toolchain that `cargo xtask setup` links: a compiler with its library sources.
const TOOLCHAIN: &str = "bpf";

fn main() -> Result<()> {
    for (name, value) in [
        // The toolchain's compiler may be a stable release; building `core` needs unstable flags.
        ("RUSTC_BOOTSTRAP", "1"),
        // aya-build hands every line on as a warning of this build.
        ("CARGO_TERM_QUIET", "true"),
        // aya-build sets rustflags of its own, which would win over the CPU version; profile rustflags are added to them.
        // v3 has 32-bit jumps and compare-and-swap: fewer instructions on every packet.
        ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
        ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3"),
        ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "-Cdebuginfo=0"),
    ] {
        // SAFETY: a build script's main function; no other thread runs yet.
        unsafe { std::env::set_var(name, value) };
    }
    println!("cargo:rerun-if-changed=../grayxdp-common/src");
    let program = Package { name: "grayxdp-ebpf", root_dir: "../grayxdp-ebpf", ..Package::default() };
    aya_build::build_ebpf([program], Toolchain::Custom(TOOLCHAIN))
        .context("the packet program does not build; `cargo xtask setup` brings what it needs")
}
