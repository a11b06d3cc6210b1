//! Waiting until no packet is on its way through the program that began before: only then is memory that the program was
//! pointed away from nobody's.

use std::{thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h): returns after an RCU grace period. Programs run with preemption or bottom
/// halves switched off, which such a period waits for.
const MEMBARRIER_GLOBAL: libc::c_long = 1;
/// Where the kernel has no such call (nohz_full): a packet takes microseconds.
const FALLBACK: Duration = Duration::from_millis(10);

/// Whether anything was taken away from the program since the last wait.
#[derive(Debug, Default)]
pub(super) struct Grace {
    is_live: bool,
    is_due: bool,
}

impl Grace {
    /// Packets may come from now on; before, nobody reads anything.
    pub(super) const fn go_live(&mut self) {
        self.is_live = true;
    }

    /// Something was taken away, and must not be written before [`Self::wait`].
    pub(super) const fn begin(&mut self) {
        self.is_due = self.is_live;
    }

    /// Waits, if need be: some milliseconds.
    pub(super) fn wait(&mut self) {
        if !std::mem::take(&mut self.is_due) {
            return;
        }
        // SAFETY: the call takes no memory.
        if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) } != 0 {
            thread::sleep(FALLBACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wait_is_enough_for_all_that_was_taken_away() {
        let mut grace = Grace::default();
        grace.begin();
        assert!(!grace.is_due, "nothing runs yet");
        grace.go_live();
        grace.begin();
        grace.begin();
        assert!(grace.is_due);
        grace.wait();
        assert!(!grace.is_due);
    }
}
