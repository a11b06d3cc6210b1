//! What packets come, and in which order: written by userspace before a run.

/// Words of a frame that are restored before every packet, from the IP header on: IPv6 and TCP without options.
pub const FRAME_WORDS: usize = 15;
/// Bytes of every frame.
pub const FRAME_LEN: usize = 80;
/// Notes in one element of their map: a cache line.
pub const NOTES_PER_LINE: usize = 16;
/// Most flows that notes are kept of.
pub const NOTED_FLOWS_MAX: u32 = 1 << 20;
/// Clients are in this network (host order), as many to an address as [`CLIENT_PORTS`].
pub const CLIENT_NETWORK: u32 = 0x3000_0000;
/// Flows of one client address.
pub const CLIENT_PORTS: u32 = 64;
/// The lowest client port.
pub const CLIENT_PORT_FIRST: u32 = 0x8000;

/// [`Course::side`]: the client's packets.
pub const CLIENT: u32 = 0;
/// [`Course::side`]: the backend's packets to the client.
pub const BACKEND: u32 = 1;
/// [`Course::side`]: the backend's packets to the source that `full-nat` gave the flow.
pub const BACKEND_TO_SOURCE: u32 = 2;

/// The one value of the map `COURSE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Course {
    /// The frame from its IP header on, as plain stores write its words.
    pub words: [u32; FRAME_WORDS],
    /// MAC addresses.
    pub macs: [u32; 3],
    /// Ethernet type, as a plain store writes it.
    pub ethertype: u32,
    /// Whether addresses are IPv6's.
    pub is_v6: u32,
    /// Whose packets come.
    pub side: u32,
    /// The port that clients connect to, or the backends'; host order.
    pub service_port: u32,
    /// Bits of a flow's number that are added to that port: 0, or 1 for two services.
    pub service_mask: u32,
    /// Flows less one, a power of two less one. The order is pseudo-random, each flow once in a round.
    pub mask: u32,
    /// Non-zero: one flow after the other, without an end.
    pub is_in_order: u32,
    /// The flow of the next packet. Advanced by the harness.
    pub position: u32,
    /// Non-zero: it is noted which backend (and source) each flow got.
    pub notes: u32,
    /// Non-zero: the program moves the packet's start, which is moved back.
    pub moves: u32,
}

const _: () = assert!(size_of::<Course>() == 112);
