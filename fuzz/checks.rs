//! What must hold of whatever is read, said once: for the fuzz targets, and for the test over their seeds
//! (`grayxdp/tests/seeds.rs`). Returns whether it was read; else it was refused.

use grayxdp::{
    agent::shapes::{AddBackend, BackendBody, Detach, Nothing, PinBody, SetWeight},
    config::{Config, Simulation},
};

/// A config file, or one of `grayxdp simulate`: it is read, or refused with a reason, and never with a panic.
pub(crate) fn config(text: &str) -> bool {
    let read = [Config::parse("fuzz.toml", text).err(), Simulation::parse("fuzz.toml", text).err()];
    for error in read.iter().flatten() {
        assert!(!error.to_string().is_empty(), "a refusal says why");
    }
    read.iter().any(Option::is_none)
}

macro_rules! is_read {
    ($body:expr, $($shape:ty),+) => {{
        let mut is_read = false;
        $(
            if let Ok(read) = serde_json::from_slice::<$shape>($body) {
                let written = serde_json::to_vec(&read).expect("what was read can be written");
                let again: $shape = serde_json::from_slice(&written).expect("what was written can be read");
                assert_eq!(format!("{read:?}"), format!("{again:?}"));
                is_read = true;
            }
        )+
        is_read
    }};
}

/// A body of the control API: it is read or refused; and what was read reads the same again.
pub(crate) fn api(body: &[u8]) -> bool {
    is_read!(body, SetWeight, PinBody, BackendBody, AddBackend, Detach, Nothing)
}
