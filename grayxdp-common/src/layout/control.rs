//! What holds for all services: one cache line that every packet reads.

use super::{IdleTicks, Owners};

/// The one value of the control map. Written by the agent, word by word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct Control {
    /// The table of owners that is in use.
    pub owners: Owners,
    /// Key of the flow hash.
    pub flow_key: [u64; 2],
    /// Buckets of the flow table.
    pub flow_buckets: u32,
    /// The table of routes in use (0 or 1).
    pub routes: u32,
    /// How long flows may be idle.
    pub idle_ticks: IdleTicks,
    /// One packet in so many is traced; zero: none.
    pub trace_one_in: u32,
    /// [`TRACE_ALL`], or the one [`crate::ids::ServiceId`] that is traced.
    pub trace_service: u32,
    /// `full-nat`: the lowest source port.
    pub source_port_first: u16,
    /// `full-nat`: how many source ports an address has.
    pub source_port_count: u16,
    /// Until when (monotonic clock, in flow ticks that do not wrap) next hops and routes in the maps may be gone by. The
    /// agent moves it on while it lives; afterwards the kernel is asked, for a neighbour's MAC address may have changed
    /// with nobody there to notice.
    pub hops_until: u32,
    /// Rows of one stripe of signals: backends with a higher number have none.
    pub signal_rows: u16,
    /// Services of one stripe of groups and fuses: those with a higher number have none.
    pub signal_services: u16,
    /// Stripes of signals, groups and fuses: one for each CPU. The agent's own comes behind them.
    pub signal_stripes: u32,
}

/// [`Control::trace_service`]: packets of all services, and of none.
pub const TRACE_ALL: u32 = u32::MAX;

/// The one value of the pinned map that says what the pins are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Meta {
    /// [`crate::LAYOUT_VERSION`]; zero until the maps are filled for the first time.
    pub layout_version: u32,
    /// Buckets of the flow table.
    pub flow_buckets: u32,
    /// Key of the flow hash, drawn when the flow table was made.
    pub flow_key: [u64; 2],
}
