//! Decisions: pure functions of their arguments, time included. No clock, no I/O, no randomness, no kernel.

pub mod controller;
pub mod health;
pub mod maglev;
pub mod schedule;
