//! Bodies of the control API: whatever they hold, they are read or refused; and what was read reads the same again.

#![no_main]

use grayxdp::agent::shapes::{AddBackend, BackendBody, Detach, Nothing, PinBody, SetWeight};
use libfuzzer_sys::fuzz_target;

macro_rules! read {
    ($body:expr, $($shape:ty),+) => {$(
        if let Ok(read) = serde_json::from_slice::<$shape>($body) {
            let written = serde_json::to_vec(&read).expect("what was read can be written");
            let again: $shape = serde_json::from_slice(&written).expect("what was written can be read");
            assert_eq!(format!("{read:?}"), format!("{again:?}"));
        }
    )+};
}

fuzz_target!(|body: &[u8]| {
    read!(body, SetWeight, PinBody, BackendBody, AddBackend, Detach, Nothing);
});
