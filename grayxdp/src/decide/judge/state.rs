//! The judge's state as text, so that an agent that is killed goes on with the evidence that there was.

use super::{Judge, JudgeConfig};

/// Why a text is no state to go on with; the release's evidence begins anew then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not what [`Judge::to_json`] writes.
    #[error("the judge's state cannot be read: {0}. It begins anew")]
    Unreadable(#[from] serde_json::Error),
    /// It was written by another version of grayxdp.
    #[error("the judge's state has version {found}, this agent reads version {expected}. It begins anew")]
    Version {
        /// As written.
        found: u32,
        /// As read here.
        expected: u32,
    },
    /// It was gathered under other settings.
    #[error("the judge's state was gathered under other settings. It begins anew")]
    OtherConfig,
}

impl Judge {
    /// All that it has seen, as one line of JSON. To be stored together with the counters' reading that it has taken in:
    /// what comes after that reading belongs to the next tick, and to no other.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_default()
    }

    /// The judge that wrote this, to the last bit.
    pub fn from_json(config: JudgeConfig, text: &str) -> Result<Self, RestoreError> {
        let stored: JudgeConfig = serde_json::from_str(text)?;
        if stored == config { Ok(Self::new(config)) } else { Err(RestoreError::OtherConfig) }
    }
}
