//! Bodies of the control API.

#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "of all checks, this is one")]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    checks::api(body);
});
