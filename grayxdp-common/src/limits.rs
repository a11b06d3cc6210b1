//! Capacities of the maps, and what must hold between them. No user defaults: those are the agent's config.

use crate::{
    ids::Version,
    layout::{MaglevSlots, OwnerBucket},
};

/// Services of a config.
pub const SERVICES_MAX: u32 = 256;
/// Entries of the service map: one for each service, and one for each canary port.
pub const SERVICE_ENTRIES: u32 = SERVICES_MAX * 2;
/// Shards of one service.
pub const SHARDS_PER_SERVICE_MAX: u32 = 4096;
/// Backends over all services, id 0 (no backend) included.
pub const BACKENDS_MAX: u32 = 8192;
/// Backends of one version of one service. At the limit each still has 16 slots of a table of the default size.
pub const BACKENDS_PER_VERSION_MAX: usize = 250;
/// Versions times services.
pub const POOLS_MAX: u32 = SERVICES_MAX * 2;
/// Sizes that a Maglev table may have; primes.
pub const MAGLEV_SIZES: [u32; 4] = [1021, 4093, 16_381, 65_537];
/// Slots of a Maglev table unless the config says otherwise. They keep a pool of 40 backends within about 1 % of its
/// weights in 8 KiB; a table of 65,537 slots was measured to cost four times as much per packet once several services
/// share the cache.
pub const MAGLEV_SLOTS: u32 = MAGLEV_SIZES[1];
/// Slots of a bucket of owners.
pub const OWNER_SLOTS: usize = 8;
/// Buckets of one table of owners. With an endpoint for every service, canary port, VIP and backend, one multiplier in
/// twenty (965 of 20,000) lets some bucket overflow, and another one is taken.
pub const OWNER_BUCKETS: u32 = 8192;
/// Entries of a bucket of the flow table.
pub const FLOW_ENTRIES_PER_BUCKET: usize = 8;
/// Longest time-out of a flow, in flow ticks: 8 h. Half the wrap of the 16-bit clock, and then some.
pub const IDLE_TICKS_MAX: u16 = 26_822;
/// Source addresses for `full-nat`, over all services.
pub const SOURCE_ADDRESSES_MAX: u32 = 64;
/// Source addresses of one service.
pub const SOURCE_ADDRESSES_PER_SERVICE_MAX: u32 = 16;
/// Slots that are looked at for a free source port, side by side. At 80 % use, one connection in 200 is refused; at 90 %,
/// one in 20 (simulated, with connections that come and go at random): the neighbours of a port in use are in use more
/// often than others.
pub const SOURCE_PORT_PROBES: u32 = 64;
/// Pinned networks, and networks of range shards, over all services.
pub const NETWORKS_MAX: u32 = 65_536;
/// Routes in one table, both families together.
pub const ROUTES_MAX: u32 = 32;
/// Datagrams whose fragments are under way.
pub const FRAGMENTS_MAX: u32 = 8192;
/// Interfaces that packets may be sent out of.
pub const INTERFACES_MAX: u32 = 64;
/// Slots of the verdict counters.
pub const VERDICTS_MAX: u32 = 64;
/// Bytes of a traced packet that the agent gets.
pub const TRACE_HEAD_LEN: usize = 128;

const _: () = assert!(BACKENDS_MAX <= 1 << 14, "an owner's number has 14 bits");
const _: () = assert!(SERVICE_ENTRIES <= 1 << 14, "an owner's number has 14 bits");
const _: () = assert!(BACKENDS_MAX <= 1 << 15, "a flow holds its backend in 15 bits");
const _: () = assert!(POOLS_MAX as usize == SERVICES_MAX as usize * Version::ALL.len());
const _: () = assert!(BACKENDS_PER_VERSION_MAX * 16 <= MAGLEV_SLOTS as usize);
const _: () = assert!(OWNER_BUCKETS.is_power_of_two());
const _: () = assert!(SOURCE_ADDRESSES_MAX <= 256, "a flow holds the index in 8 bits");
const _: () = assert!(size_of::<MaglevSlots>().is_multiple_of(8), "array elements are rounded up to 8 bytes");
const _: () = assert!(size_of::<OwnerBucket>().is_multiple_of(8), "array elements are rounded up to 8 bytes");
