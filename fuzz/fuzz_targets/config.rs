//! Whatever a config file holds, it is read or refused with a reason, never with a panic.

#![no_main]

use grayxdp::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = Config::parse("fuzz.toml", text) {
        assert!(!errors.to_string().is_empty(), "a refusal says why");
    }
});
