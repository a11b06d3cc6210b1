//! Traced packets, as they come out of the program.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use grayxdp_common::layout::TraceEvent;

/// The receiving end. Readable (poll, or tokio's `AsyncFd`) where there is an event; read until there is none.
pub struct TraceEvents {
    ring: RingBuf<MapData>,
}

impl TraceEvents {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next event, if there is one.
    pub fn next_event(&mut self) -> Option<TraceEvent> {
        loop {
            let item = self.ring.next()?;
            // Another length would be another program's: not to be taken for an event, but to be read over.
            if let Some(event) = parse(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for TraceEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for TraceEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn parse(bytes: &[u8]) -> Option<TraceEvent> {
    if bytes.len() < size_of::<TraceEvent>() {
        return None;
    }
    // SAFETY: long enough, and integers without padding may hold any bytes.
    Some(unsafe { bytes.as_ptr().cast::<TraceEvent>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_bytes_and_less_is_none() {
        let mut bytes = vec![0; size_of::<TraceEvent>() + 1];
        bytes[1..9].copy_from_slice(&77_u64.to_ne_bytes());
        assert_eq!(parse(&bytes[1..]).expect("long enough").time_ns, 77);
        assert!(parse(&bytes[2..]).is_none());
    }
}
