//! Where a client goes, and why: the packet program's questions in its order, asked of the same tables, answered by the
//! same arithmetic. Pure; changes nothing.
//!
//! It follows `request.rs` and `choose.rs` of the packet program: what changes there changes here. The packet tests hold
//! both together.

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId, ShardId, Version},
    layout::{
        Address, BackendEntry, Control, FLOW_SEVER, FLOW_UDP, FlowBucket, FlowEntry, FlowHash, FlowOwner, FlowSeen,
        FlowState, METHOD_RANDOM, METHOD_RANGE, MaglevSlots, PoolTable, SERVICE_CIDR_PINS, SERVICE_DSCP_PINS,
        ServiceEntry,
    },
    verdict::Verdict,
    weight::{KeyHash, Threshold},
};

/// IP protocol number of UDP.
const UDP: u8 = 17;

/// The packet program's maps, as far as they say where a flow goes. `None`: behind a map's end, or not in it.
pub trait Tables {
    /// What holds for all services.
    fn control(&self) -> Option<Control>;
    /// A service, by the number of the port that the client comes by.
    fn service(&self, id: ServiceId) -> Option<ServiceEntry>;
    /// The version (as a number) of the longest pinned network around an address.
    fn pinned_version(&self, service: ServiceId, client: Address) -> Option<u32>;
    /// The shard of the longest network around an address.
    fn range_shard(&self, service: ServiceId, client: Address) -> Option<u32>;
    /// A shard's weight, by its place in the map.
    fn threshold(&self, slot: u32) -> Option<Threshold>;
    /// Where the Maglev table of a pool is.
    fn pool_table(&self, pool: u32) -> Option<PoolTable>;
    /// Four slots of the tables.
    fn maglev_slots(&self, group: u32) -> Option<MaglevSlots>;
    /// A backend.
    fn backend(&self, id: BackendId) -> Option<BackendEntry>;
    /// A bucket of the flow table.
    fn flow_bucket(&self, index: u32) -> Option<FlowBucket>;
    /// The present moment, in flow ticks that do not wrap.
    fn now(&self) -> u32;
}

/// Whom to explain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Number of the service, or of its canary port.
    pub service: ServiceId,
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub client_port: Be16,
    /// DSCP value of its packets, 0 to 63.
    pub dscp: u8,
}

/// What decided on the version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinKind {
    /// The canary port.
    Port,
    /// The client's network.
    Source,
    /// The DSCP value.
    Dscp,
}

/// What becomes of a packet that begins a connection (a SYN) or a conversation (a datagram) now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It belongs to a flow that lives, and goes where that goes.
    Flow(BackendId),
    /// It is chosen for by pin or weight.
    Chosen(Version, BackendId),
    /// The version is drawn, packet by packet; each version's [`Candidate`] is known.
    Drawn,
    /// It is dropped.
    Dropped(Verdict),
}

/// The entry that the client has in the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownFlow {
    /// Its backend.
    pub id: BackendId,
    /// As it stands in the map.
    pub backend: BackendEntry,
    /// What was seen of it.
    pub seen: FlowSeen,
    /// Since a packet was last seen, in flow ticks.
    pub idle_ticks: u16,
    /// Idle for longer than it may be: the next SYN or datagram begins anew.
    pub is_expired: bool,
}

/// Where a version's Maglev table would send the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Slot of the table.
    pub slot: u32,
    /// Slots of the table; zero: the version has no live backend, nor another version's in its place.
    pub slots: u32,
    /// Who is in that slot.
    pub backend: Option<(BackendId, BackendEntry)>,
}

/// A client's way through the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// What becomes of its next SYN or datagram.
    pub fate: Fate,
    /// Its entry in the flow table. Segments of an open connection go by it, whatever the fate of a SYN.
    pub flow: Option<KnownFlow>,
    /// The pin that counts, and where to.
    pub pin: Option<(PinKind, Version)>,
    /// The hash of its key.
    pub hash: KeyHash,
    /// Its shard, and of how many.
    pub shard: (ShardId, u32),
    /// The shard's weight; `None` where there is no such shard.
    pub threshold: Option<Threshold>,
    /// Whether the version is drawn for each connection, instead of following from the hash.
    pub is_drawn: bool,
    /// By version: v1, v2.
    pub candidates: [Candidate; 2],
    /// Until when next hops in the maps may be gone by, in flow ticks: beyond it the kernel is asked.
    pub are_hops_fresh: bool,
}

impl Explanation {
    /// The candidate of a version.
    pub const fn candidate(&self, version: Version) -> &Candidate {
        let [v1, v2] = &self.candidates;
        match version {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }
}

/// Explains a client's way. `None` where there is no such service, or no flow table.
pub fn explain(tables: &impl Tables, question: Question) -> Option<Explanation> {
    let control = tables.control()?;
    let service = tables.service(question.service).filter(ServiceEntry::is_used)?;
    let hash = service.key_hash(question.client, question.client_port);
    let pin = pin(tables, &service, question);
    let shard = shard(tables, &service, question.client, hash);
    let threshold = if shard.0 < service.shard_count { tables.threshold(service.weight_slot(shard)) } else { None };
    let candidates = Version::ALL.map(|version| candidate(tables, &service, version, hash));
    let flow = flow(tables, &control, &service, question);
    let mut explanation = Explanation {
        fate: Fate::Drawn,
        flow,
        pin,
        hash,
        shard: (shard, service.shard_count),
        threshold,
        is_drawn: service.method == METHOD_RANDOM && pin.is_none(),
        candidates,
        are_hops_fresh: tables.now() <= control.hops_until,
    };
    explanation.fate = fate(&service, question, &explanation);
    Some(explanation)
}

fn fate(service: &ServiceEntry, question: Question, found: &Explanation) -> Fate {
    let source = (question.client, question.client_port);
    if source == (service.endpoint.address, service.endpoint.port) {
        return Fate::Dropped(Verdict::DroppedLandAttack);
    }
    if is_martian(&question.client) {
        return Fate::Dropped(Verdict::DroppedMartianSource);
    }
    if let Some(flow) = found.flow.filter(|flow| !begins_anew(service, flow)) {
        return Fate::Flow(flow.id);
    }
    let version = match (found.pin, found.threshold) {
        (Some((_, version)), _) => version,
        (None, None) => return Fate::Dropped(Verdict::DroppedNoBackend),
        (None, Some(_)) if found.is_drawn => return Fate::Drawn,
        (None, Some(threshold)) => threshold.version(found.hash),
    };
    let backend = found.candidate(version).backend;
    backend.map_or(Fate::Dropped(Verdict::DroppedNoBackend), |(id, _)| Fate::Chosen(version, id))
}

fn begins_anew(service: &ServiceEntry, flow: &KnownFlow) -> bool {
    if service.endpoint.protocol == UDP {
        flow.backend.is_down() || flow.is_expired
    } else {
        flow.seen.state() != FlowState::Established || flow.seen.kind & FLOW_SEVER != 0 || flow.is_expired
    }
}

fn pin(tables: &impl Tables, service: &ServiceEntry, question: Question) -> Option<(PinKind, Version)> {
    if let Some(version) = service.port_pin() {
        return Some((PinKind::Port, version));
    }
    if service.flags & SERVICE_CIDR_PINS != 0
        && let Some(version) = tables.pinned_version(networks(service), question.client)
    {
        let version = if version == Version::V2 as u32 { Version::V2 } else { Version::V1 };
        return Some((PinKind::Source, version));
    }
    if service.flags & SERVICE_DSCP_PINS == 0 {
        return None;
    }
    service.dscp_pin(question.dscp).map(|version| (PinKind::Dscp, version))
}

fn shard(tables: &impl Tables, service: &ServiceEntry, client: Address, hash: KeyHash) -> ShardId {
    match service.method {
        METHOD_RANGE => ShardId(tables.range_shard(networks(service), client).unwrap_or(0)),
        METHOD_RANDOM => ShardId(0),
        _ => hash.shard(service.shard_count),
    }
}

fn candidate(tables: &impl Tables, service: &ServiceEntry, version: Version, hash: KeyHash) -> Candidate {
    let table = tables.pool_table(service.pool(version)).unwrap_or_default();
    let slot = hash.maglev_slot(table.slots());
    let filled = if table.slots() == 0 { None } else { tables.maglev_slots(table.first().wrapping_add(slot >> 2)) };
    let id = filled.and_then(|slots| BackendId::from_raw(slots.slot(slot)));
    let backend = id.and_then(|id| Some((id, tables.backend(id)?)));
    Candidate { slot, slots: table.slots(), backend }
}

fn flow(tables: &impl Tables, control: &Control, service: &ServiceEntry, question: Question) -> Option<KnownFlow> {
    let hash = FlowHash::new(control.flow_key, question.client, question.client_port, question.service);
    let entry_of = |bucket: FlowBucket, flow: FlowOwner| {
        bucket.entries.into_iter().find(|entry| entry.owner.names(flow) && entry.owner.backend().is_some())
    };
    let index = hash.bucket(control.flow_buckets);
    let bucket = tables.flow_bucket(index)?;
    let FlowEntry { owner, seen } = match entry_of(bucket, FlowOwner::of(hash)) {
        Some(entry) => entry,
        None if bucket.may_have_turned_away() => {
            entry_of(tables.flow_bucket(FlowHash::second_bucket(index))?, FlowOwner::of(hash).in_second())?
        }
        None => return None,
    };
    let id = owner.backend()?;
    let backend = tables.backend(id)?;
    // An entry may outlive its service, whose number then names another one: such an entry is none.
    if backend.service != service.pools {
        return None;
    }
    let mut limits = control.idle_ticks;
    if seen.kind & FLOW_UDP != 0 {
        limits.udp = service.udp_idle_ticks;
    }
    #[expect(clippy::cast_possible_truncation, reason = "entries hold ticks that wrap")]
    let now = tables.now() as u16;
    let (idle_ticks, is_expired) = (seen.idle_ticks(now), seen.is_expired(now, &limits));
    Some(KnownFlow { id, backend, seen, idle_ticks, is_expired })
}

/// Networks are kept for the service that the pools belong to.
fn networks(service: &ServiceEntry) -> ServiceId {
    ServiceId(u32::from(service.pools))
}

/// Addresses that no packet on a wire comes from: this network, loopback, multicast and above (RFC 6890).
fn is_martian(client: &Address) -> bool {
    match std::net::IpAddr::from(*client) {
        std::net::IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127 | 224..),
        std::net::IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
