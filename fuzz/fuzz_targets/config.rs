//! Config files.

#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "of all checks, this is one")]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    checks::config(text);
});
