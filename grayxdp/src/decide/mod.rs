//! Decisions: pure functions of their arguments, time included. No clock, no I/O, no randomness, no kernel.

pub mod controller;
pub mod evidence;
pub mod explain;
pub mod health;
pub mod maglev;
pub mod owners;
pub mod pin;
pub mod plan;
pub mod schedule;
pub mod settings;
pub mod shards;
pub mod signals;
pub mod weights;
