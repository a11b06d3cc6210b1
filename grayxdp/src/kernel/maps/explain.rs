//! The packet program's maps, read as it reads them: where does a client go? Changes nothing.

use aya::maps::lpm_trie::{Key, LpmTrie};
use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId},
    layout::{
        Address, BackendEntry, Control, FlowBucket, MaglevSlots, NetworkKey, PoolTable, ServiceEntry, long_flow_tick,
    },
    weight::Threshold,
};

use super::Maps;
use crate::{
    decide::explain::{self, Explanation, Question, Tables},
    kernel::{DataPlane, flows},
};

impl Tables for Maps {
    fn control(&self) -> Option<Control> {
        self.control.load(0)
    }

    fn service(&self, id: ServiceId) -> Option<ServiceEntry> {
        self.services.load(id.0)
    }

    fn pinned_version(&self, service: ServiceId, client: Address) -> Option<u32> {
        longest(&self.pins, service, client)
    }

    fn range_shard(&self, service: ServiceId, client: Address) -> Option<u32> {
        longest(&self.ranges, service, client)
    }

    fn is_fuse_blown(&self, service: ServiceId) -> bool {
        self.fuses.blown(service).is_some()
    }

    fn threshold(&self, slot: u32) -> Option<Threshold> {
        self.threshold(slot)
    }

    fn pool_table(&self, pool: u32) -> Option<PoolTable> {
        self.pools.load(pool)
    }

    fn maglev_slots(&self, group: u32) -> Option<MaglevSlots> {
        self.tables.load(group)
    }

    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        self.backends.load(id.raw().into())
    }

    fn flow_bucket(&self, index: u32) -> Option<FlowBucket> {
        self.flows.bucket(index)
    }

    fn now(&self) -> u32 {
        long_flow_tick(flows::now_ns())
    }
}

fn longest(
    networks: &LpmTrie<aya::maps::MapData, NetworkKey, u32>,
    service: ServiceId,
    address: Address,
) -> Option<u32> {
    // What cannot be read is as good as absent: so it is for the packet program.
    networks.get(&Key::new(NetworkKey::WHOLE, NetworkKey { service: service.0, address }), 0).ok()
}

impl DataPlane {
    /// Where the kernel's own maps send a client of a service, by its own port or by its canary port, and why. `dscp` is
    /// 0 to 63. `None` where there is no such service.
    pub fn explain(
        &self,
        service: usize,
        by_canary_port: bool,
        client: std::net::SocketAddr,
        dscp: u8,
    ) -> Option<Explanation> {
        let id = self.blueprint.inventory.services.get(service)?.id;
        let question = Question {
            service: if by_canary_port { id.canary() } else { id },
            client: client.ip().into(),
            client_port: Be16::new(client.port()),
            dscp,
        };
        explain::explain(&self.maps, question)
    }
}
