//! Fragments: the first one carries the ports, the following ones go where it went.

use super::Address;

/// Which datagram a fragment is of (RFC 791 3.2, RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey {
    /// As it came in.
    pub source: Address,
    /// As it came in.
    pub destination: Address,
    /// Identification, as the wire's bytes.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// What became of the first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct FragmentEntry {
    /// Its source afterwards.
    pub source: Address,
    /// Its destination afterwards.
    pub destination: Address,
    /// [`crate::ids::BackendId`] that it went to or came from.
    pub backend: u16,
    /// [`crate::ids::ServiceId`].
    pub service: u16,
    /// Non-zero: from the backend to the client.
    pub is_reply: u32,
}
