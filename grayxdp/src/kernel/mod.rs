//! The kernel side as the agent sees it: [`DataPlane`]. The only importer of aya; decides nothing.
//!
//! Everything is pinned under one folder, so that traffic goes on when the agent does not. Order at start: check, lock,
//! load, reconcile the maps, attach; a program never runs on maps that are half filled.

mod error;
mod inventory;
mod link_info;
mod load;
mod maps;
mod pins;
mod preflight;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use aya::{Ebpf, programs::TestRun as _, programs::links::PinnedLink};
use grayxdp_common::{
    ids::Version,
    layout::{BackendCounters, FLOW_TICK_SHIFT, KEY_CONNECTION, KEY_SOURCE_IP, ServiceEntry},
    limits::{BACKENDS_MAX, SERVICES_MAX},
    verdict::Verdict,
    weight::Weight,
};
use siphasher::sip::SipHasher13;

pub use self::{error::KernelError, pins::AttachedMode};
use self::{
    inventory::{Full, Inventory},
    maps::Maps,
    pins::Pins,
    preflight::Interface,
};
use crate::{
    config::{Config, Key, ServiceConfig, XdpMode},
    decide::maglev,
};

/// An interface that the program runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the device.
    pub interface: String,
    /// How it runs there.
    pub mode: AttachedMode,
}

/// What the kernel counted for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReading {
    /// Index into the config's services.
    pub service: usize,
    /// The version that it serves.
    pub version: Version,
    /// Where it serves.
    pub address: SocketAddr,
    /// Since it was first seen; over all CPUs.
    pub counters: BackendCounters,
}

/// What [`detach`] took down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetachReport {
    /// Devices that the program ran on; empty where nothing was pinned.
    pub interfaces: Vec<String>,
}

/// How a packet fared in [`DataPlane::test_run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// XDP action number.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// The loaded program and its maps, held by one agent.
pub struct DataPlane {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    inventory: Inventory,
    shard_counts: Vec<u32>,
    interfaces: Vec<Interface>,
    mode: XdpMode,
    /// Of the config, for messages.
    bpffs: PathBuf,
    /// Whether this agent made the pins: then nothing but it needs them should it fail to attach.
    fresh: bool,
    links: Vec<PinnedLink>,
}

impl DataPlane {
    /// Checks the host, loads the program, takes a former agent's maps over, and makes them say what the config says.
    /// Attaches nothing; weights of services that the maps knew stay as they are, those of new ones are zero.
    ///
    /// # Errors
    /// Any [`KernelError`]; running traffic is left as it was.
    pub fn open(config: &Config) -> Result<Self, KernelError> {
        let interfaces = preflight::check(config)?;
        let bpffs = config.agent.bpffs.clone();
        let pins = Pins::claim(&bpffs)?;
        let taken_over = load::inspect(&pins, &bpffs, config.agent.max_flows)?;
        match Self::load_and_fill(config, &pins, &interfaces) {
            Ok((ebpf, maps, inventory)) => {
                let shard_counts = config.services.iter().map(|service| service.shard_count).collect();
                let mode = config.agent.xdp_mode;
                let (fresh, links) = (!taken_over, Vec::new());
                Ok(Self { ebpf, maps, pins, inventory, shard_counts, interfaces, mode, bpffs, fresh, links })
            }
            Err(error) => {
                if !taken_over && let Err(cleanup) = pins.remove_all() {
                    tracing::warn!(%cleanup, "pins_left_behind");
                }
                Err(error)
            }
        }
    }

    fn load_and_fill(
        config: &Config,
        pins: &Pins,
        interfaces: &[Interface],
    ) -> Result<(Ebpf, Maps, Inventory), KernelError> {
        let mut ebpf = load::load(pins, config.agent.max_flows)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let pinned = maps.pinned()?;
        let inventory = inventory::take(&config.services, &pinned).map_err(|full| {
            let (what, limit) = match full {
                Full::Services => ("service", SERVICES_MAX),
                Full::Backends => ("backend", BACKENDS_MAX - 1),
            };
            KernelError::Full { what, limit, path: config.agent.bpffs.clone() }
        })?;
        maps.set_interfaces(&interfaces.iter().map(|interface| interface.index).collect::<Vec<_>>())?;
        reconcile(&mut maps, config, &pinned, &inventory)?;
        maps.mark_filled()?;
        Ok((ebpf, maps, inventory))
    }

    /// The weight that a former agent left; `None` for a service new to the maps, or whose v2 is another canary now (its
    /// weight is zero then).
    pub fn pinned_weight(&self, service: usize) -> Option<Weight> {
        let slot = self.inventory.services.get(service)?;
        if slot.known && !slot.canary_replaced { self.maps.weight(slot.id) } else { None }
    }

    /// The weight that the kernel applies now.
    ///
    /// # Errors
    /// Where the map holds a value that is no weight.
    pub fn weight(&self, service: usize) -> Result<Weight, KernelError> {
        let weight = self.inventory.services.get(service).and_then(|slot| self.maps.weight(slot.id));
        weight.ok_or_else(|| KernelError::Map {
            what: "read a weight",
            reason: "it is none that an agent wrote".to_owned(),
        })
    }

    /// Makes the kernel apply a weight; it does when this returns.
    ///
    /// # Errors
    /// For a service that the config does not have.
    pub fn set_weight(&mut self, service: usize, weight: Weight) -> Result<(), KernelError> {
        let slot = self.inventory.services.get(service).zip(self.shard_counts.get(service));
        let (slot, &shard_count) = slot.ok_or_else(|| KernelError::Map {
            what: "write a weight",
            reason: format!("there is no service {service}"),
        })?;
        self.maps.set_weight(slot.id, shard_count, weight);
        Ok(())
    }

    /// Attaches the program to the interfaces of the config, or replaces a former agent's there without a gap.
    ///
    /// # Errors
    /// Where one refuses; then none has been attached that was not before.
    pub fn attach(&mut self) -> Result<Vec<Attachment>, KernelError> {
        let program = load::xdp(&mut self.ebpf)?;
        let attached = load::attach(program, &self.pins, &self.bpffs, &self.interfaces, self.mode)?;
        let (attachments, links) = attached.into_iter().unzip();
        self.links = links;
        self.fresh = false;
        Ok(attachments)
    }

    /// What the kernel counted, for every backend of the config.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        let read = |slot: &inventory::BackendSlot| {
            Ok(BackendReading {
                service: slot.service,
                version: slot.version,
                address: slot.config.address,
                counters: self.maps.counters(slot)?,
            })
        };
        self.inventory.backends.iter().map(read).collect()
    }

    /// How many packets ended in which way.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.maps.verdicts()
    }

    /// Runs one packet, from its Ethernet header on, through the program without sending it (BPF_PROG_TEST_RUN).
    ///
    /// # Errors
    /// Where the kernel refuses: under 14 bytes, or more than a page.
    pub fn test_run(&mut self, packet: &[u8]) -> Result<TestOutcome, KernelError> {
        const ROOM: usize = 256;
        let mut data_out = vec![0; packet.len() + ROOM];
        let options = aya::programs::TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut data_out),
            ..aya::programs::TestRunOptions::default()
        };
        let result = load::xdp(&mut self.ebpf)?.test_run(options).map_err(KernelError::map("run a test packet"))?;
        data_out.truncate(result.data_size_out as usize);
        Ok(TestOutcome { action: result.return_value, packet: data_out })
    }

    /// Takes everything down: links, program, maps, folder.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn detach_all(mut self) -> Result<(), KernelError> {
        self.links.clear();
        self.take_down()
    }

    /// Ends an agent that did not come to attach: what it made goes, what it found stays.
    pub fn abandon(self) -> Result<(), KernelError> {
        if self.fresh { self.take_down() } else { Ok(()) }
    }

    fn take_down(self) -> Result<(), KernelError> {
        let Self { ebpf, maps, pins, links, .. } = self;
        drop((links, ebpf, maps));
        pins.remove_all()
    }
}

/// Takes down what no agent holds.
///
/// # Errors
/// [`KernelError::AgentRunning`] where one does; others where a pin cannot be removed.
pub fn detach(bpffs: &Path) -> Result<DetachReport, KernelError> {
    preflight::check_capabilities()?;
    let Some(pins) = Pins::claim_existing(bpffs)? else { return Ok(DetachReport::default()) };
    let interfaces = pins.links()?.into_iter().map(|pin| pin.interface).collect();
    pins.remove_all()?;
    Ok(DetachReport { interfaces })
}

/// Makes the maps say what the config says, in an order that no packet can be led astray by.
fn reconcile(
    maps: &mut Maps,
    config: &Config,
    pinned: &inventory::Pinned,
    inventory: &Inventory,
) -> Result<(), KernelError> {
    for (id, endpoint) in &inventory.removed_services {
        maps.remove_service(*id, endpoint)?;
    }
    for (id, entry) in &inventory.retired {
        maps.set_backend(*id, *entry)?;
    }
    for slot in &inventory.backends {
        let former = pinned.backends.iter().find(|(id, _)| *id == slot.id).map(|(_, entry)| entry);
        if let Some(former) = former.filter(|former| former.endpoint != slot.entry.endpoint) {
            maps.clear_backend(slot.id, former)?;
        }
        maps.set_backend(slot.id, slot.entry)?;
    }
    for (index, (service, slot)) in config.services.iter().zip(&inventory.services).enumerate() {
        // Where v2 is another canary than the weight was given to (a promoted v2 that became v1, and a new v2), all
        // traffic moves to v1's new pool before v2's is swapped: nothing reaches the new canary uninvited.
        set_pool(maps, inventory, index, slot.id, Version::V1)?;
        if !slot.known || slot.canary_replaced {
            maps.set_weight(slot.id, grayxdp_common::limits::SHARDS_PER_SERVICE_MAX, Weight::ZERO);
        } else if let Some(weight) = maps.weight(slot.id) {
            maps.set_weight(slot.id, service.shard_count, weight);
        }
        set_pool(maps, inventory, index, slot.id, Version::V2)?;
        maps.set_service(slot.id, service_entry(service, slot))?;
    }
    Ok(())
}

fn set_pool(
    maps: &mut Maps,
    inventory: &Inventory,
    service: usize,
    id: grayxdp_common::ids::ServiceId,
    version: Version,
) -> Result<(), KernelError> {
    let members = inventory.backends.iter().filter(|slot| slot.service == service && slot.version == version);
    let pool: Vec<_> =
        members.map(|slot| (slot.id, slot.config.weight, backend_identity(slot.config.address))).collect();
    maps.set_pool(id, version, &maglev::table(&pool))
}

/// Places a backend in Maglev tables by its address, equally on every host of a fleet.
fn backend_identity(address: SocketAddr) -> u64 {
    SipHasher13::new_with_keys(0, 0).hash(address.to_string().as_bytes())
}

fn service_entry(service: &ServiceConfig, slot: &inventory::ServiceSlot) -> ServiceEntry {
    let idle_ticks = (service.udp_idle.as_nanos() >> FLOW_TICK_SHIFT).max(1);
    ServiceEntry {
        hash_key: service.hash_key,
        endpoint: slot.endpoint,
        key: match service.key {
            Key::SourceIp => KEY_SOURCE_IP,
            Key::Connection => KEY_CONNECTION,
        },
        shard_count: service.shard_count,
        udp_idle_ticks: u32::try_from(idle_ticks).unwrap_or(u32::MAX),
    }
}
