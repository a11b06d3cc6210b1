//! Is v2 worse than v1? Said of what both did over the same ticks, at every look, at a known rate of false alarms.

mod config;
mod state;

use std::{net::SocketAddr, time::Duration};

use grayxdp_common::weight::Weight;

pub use self::{config::JudgeConfig, state::RestoreError};
use super::{
    evidence::{Judgement, NotYet},
    signals::{Counts, Signals},
};

/// What came in between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// How long it was. Zero, or far too long, does no harm: it only says what is recent.
    pub elapsed: Duration,
    /// The lowest and the highest of v2's weights that were in force meanwhile; of differing shards, their means.
    pub weight: (Weight, Weight),
    /// What v1's signals have grown by.
    pub v1: &'a Signals,
    /// What v2's signals have grown by.
    pub v2: &'a Signals,
    /// New flows of v1 and of v2 that no weight placed: pinned ones, those of the canary port, those whose version had no
    /// backend.
    pub unweighted: (u64, u64),
    /// What the counts of each of v2's backends have grown by; may be empty.
    pub backends: &'a [(SocketAddr, Counts)],
}

/// The judge of one release: all that it has seen since the release began, in some kilobytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Judge {
    config: JudgeConfig,
}

impl Judge {
    /// One that has seen nothing.
    pub fn new(config: JudgeConfig) -> Self {
        Self { config }
    }

    /// What it judges by.
    pub const fn config(&self) -> &JudgeConfig {
        &self.config
    }

    /// Takes in what came since the last look, and judges.
    pub fn tick(&mut self, _tick: &Tick<'_>) -> Judgement {
        self.judgement()
    }

    /// What is to be said now, without anything new.
    pub fn judgement(&self) -> Judgement {
        Judgement::NotYet(NotYet::default())
    }
}
