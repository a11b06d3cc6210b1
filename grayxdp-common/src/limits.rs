//! Capacities of the maps, and what must hold between them. No user defaults: those are the agent's config.

use crate::{ids::Version, layout::MaglevTable};

/// Services that one program can serve.
pub const SERVICES_MAX: u32 = 256;
/// Shards of one service.
pub const SHARDS_PER_SERVICE_MAX: u32 = 4096;
/// Slots of the weight map: every service owns a fixed run of them, so that no weight ever moves.
pub const WEIGHT_SLOTS: u32 = SERVICES_MAX * SHARDS_PER_SERVICE_MAX;
/// Backends over all services, id 0 (no backend) included.
pub const BACKENDS_MAX: u32 = 4096;
/// Backends of one version of one service. At the limit each still has 16 slots of its Maglev table.
pub const BACKENDS_PER_VERSION_MAX: usize = 250;
/// Versions times services.
pub const POOLS_MAX: u32 = SERVICES_MAX * 2;
/// Slots of a Maglev table; prime. 4,093 slots keep a pool of 40 backends within about 1 % of its weights in 8 KiB;
/// a table of 65,537 slots was measured to cost four times as much per packet once several services share the cache.
pub const MAGLEV_SLOTS: u32 = 4093;
/// Endpoints: one for each service and one for each backend.
pub const ENDPOINTS_MAX: u32 = SERVICES_MAX + BACKENDS_MAX;
/// Interfaces that packets may be sent out of.
pub const INTERFACES_MAX: u32 = 64;
/// Slots of the verdict counters.
pub const VERDICTS_MAX: u32 = 64;

const _: () = assert!(BACKENDS_MAX <= u16::MAX as u32 + 1, "a BackendId is 16 bits");
const _: () = assert!(POOLS_MAX as usize == SERVICES_MAX as usize * Version::ALL.len());
const _: () = assert!(BACKENDS_PER_VERSION_MAX * 16 <= MAGLEV_SLOTS as usize);
const _: () = assert!(size_of::<MaglevTable>().is_multiple_of(8), "array elements are rounded up to 8 bytes");
