//! What the packet program and the agent must agree on: map layouts, limits, the hash, weight arithmetic, verdicts.
//!
//! No `std`, no allocation, no I/O. Both sides compile the same source, so what the kernel decides userspace can
//! recompute.
#![cfg_attr(not(test), no_std)]

pub mod csum;
pub mod hash;
pub mod histogram;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod verdict;
pub mod weight;

/// Version of everything pinned: map layouts, meanings of ids and counters. An agent takes over only pins that carry
/// the same number; raise it with every change that an older program or agent would read wrongly.
pub const LAYOUT_VERSION: u32 = 6;
