//! What somebody who has just gone leaves behind for a moment.

use std::{thread::sleep, time::Duration};

const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Whether something is there, and still is a second later.
///
/// # Errors
/// The first that a look ends in.
pub(super) fn stays<E>(mut is_there: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    for _ in 0..LOOKS {
        if !is_there()? {
            return Ok(false);
        }
        sleep(BETWEEN_LOOKS);
    }
    is_there()
}
