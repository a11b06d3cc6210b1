//! The judge's state as text, so that an agent that is killed goes on with the evidence that there was.

use serde::{Deserialize, Serialize};

use super::{Judge, JudgeConfig};

/// Changes with whatever a state is made of, or means.
const VERSION: u32 = 4;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    judge: &'a Judge,
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    judge: Judge,
}

/// Why a text is no state to go on with; the release's evidence begins anew then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not what [`Judge::to_json`] writes.
    #[error("the judge's state cannot be read: {0}. Its evidence begins anew")]
    Unreadable(#[from] serde_json::Error),
    /// It was written by another version of grayxdp.
    #[error("the judge's state has version {found}, this agent reads version {expected}. Its evidence begins anew")]
    Version {
        /// As written.
        found: u32,
        /// As read here.
        expected: u32,
    },
    /// It was gathered under other settings.
    #[error("the judge's state was gathered under other settings. Its evidence begins anew")]
    OtherConfig,
}

impl Judge {
    /// All that it has seen, as one line of JSON. To be stored together with the counters' reading that it has taken in:
    /// what comes after that reading belongs to the next tick, and to no other.
    pub fn to_json(&self) -> String {
        // Only keys that are no text could fail, and there are none. Nothing can be read from an empty text.
        serde_json::to_string(&Written { version: VERSION, judge: self }).unwrap_or_default()
    }

    /// The judge that wrote this, to the last bit.
    pub fn from_json(config: JudgeConfig, text: &str) -> Result<Self, RestoreError> {
        let Header { version } = serde_json::from_str(text)?;
        if version != VERSION {
            return Err(RestoreError::Version { found: version, expected: VERSION });
        }
        let Read { judge } = serde_json::from_str(text)?;
        if judge.config == config { Ok(judge) } else { Err(RestoreError::OtherConfig) }
    }
}
