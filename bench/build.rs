//! Builds the packet programs of the benchmark for the bpf target.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

/// The toolchain that `cargo xtask setup` links: a compiler with its library sources.
const TOOLCHAIN: &str = "bpf";

fn main() -> Result<()> {
    // As for the packet program itself: what is measured must be compiled alike. The reasons are in `grayxdp/build.rs`.
    for (name, value) in [
        ("RUSTC_BOOTSTRAP", "1"),
        ("CARGO_TERM_QUIET", "true"),
        ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
        ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3"),
        ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "-Cdebuginfo=0"),
    ] {
        // SAFETY: a build script's main function; no other thread runs yet.
        unsafe { std::env::set_var(name, value) };
    }
    println!("cargo:rerun-if-changed=../grayxdp-common/src");
    println!("cargo:rerun-if-changed=../grayxdp-ebpf/src");
    let programs = Package { name: "grayxdp-bench-ebpf", root_dir: "../bench-ebpf", ..Package::default() };
    aya_build::build_ebpf([programs], Toolchain::Custom(TOOLCHAIN))
        .context("the benchmark's packet programs do not build; `cargo xtask setup` brings what they need")
}
