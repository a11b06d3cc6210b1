//! Packet programs of the benchmark: what feeds packets to the program under test, and what userspace and they agree on.
//!
//! The library knows no program under test: `bin/grayxdp.rs` has the real packet path, `bin/lru.rs` the baseline.
#![cfg_attr(target_arch = "bpf", no_std, feature(asm_experimental_arch))]

pub mod course;
#[macro_use]
#[path = "../../grayxdp-ebpf/src/accessors.rs"]
mod accessors;
pub mod frame;
pub mod harness;
pub mod lru;
