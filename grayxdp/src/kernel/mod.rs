//! The kernel side as the agent sees it: [`DataPlane`]. The only importer of aya; decides nothing.
//!
//! State outlives every program: flow table, counters, verdicts and links are pinned under one folder, so that traffic
//! goes on when the agent does not. All other maps are one program's own. A new agent checks what can be refused, reads
//! what the running program has, loads a new program with maps of its own, fills them completely, and only then points
//! the links to it ([`DataPlane::attach`]). Up to that moment nothing that packets read has changed.

mod attach;
mod batch;
#[cfg(feature = "bench")]
mod bench;
mod entries;
mod error;
mod events;
mod fill;
mod flows;
mod former;
mod fuses;
mod grace;
mod handover;
mod inventory;
mod lingering;
mod link_info;
mod live;
mod load;
mod mapped;
mod maps;
mod netlink;
mod observe;
mod pins;
mod pools;
mod preflight;
mod setup;
mod signals;
mod slots;
mod sources;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use aya::{Ebpf, programs::links::PinnedLink};
use grayxdp_common::{
    ids::BackendId,
    layout::{Address, NextHop},
    weight::Weight,
};

use self::{
    attach::Plan, fill::Blueprint, former::Former, handover::Survival, maps::Maps, observe::Sweep, pins::Pins,
    signals::SignalCache,
};
pub use self::{
    error::KernelError,
    events::{TraceEvents, Traced, interface_name},
    flows::{Census, Flow, now_ns},
    fuses::{Blown, FuseAlarms, FuseState},
    observe::{BackendReading, FlowReading, TestOutcome},
    pins::AttachedMode,
    setup::{
        BackendSetup, ForwardMode, Network, PinRules, ServiceSetup, Setup, Shards, SignalSetup, SourcePorts, Standing,
        WhenEmpty, idle_ticks,
    },
    signals::{BackendSignals, SignalReadings},
};

/// An interface that the program runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the device.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// How it runs there.
    pub mode: AttachedMode,
}

/// What [`detach`] took down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetachReport {
    /// Devices that the program ran on; empty where nothing was pinned.
    pub interfaces: Vec<String>,
}

/// The loaded program and its maps, held by one agent.
pub struct DataPlane {
    ebpf: Ebpf,
    /// Number of the program.
    program: u32,
    maps: Maps,
    pins: Pins,
    setup: Setup,
    blueprint: Blueprint,
    former: Former,
    /// Taken by [`DataPlane::attach`].
    plan: Option<Plan>,
    flow_key: [u64; 2],
    /// Whether this agent made the pins: then nothing but it needs them should it fail to attach.
    fresh: bool,
    links: Vec<PinnedLink>,
    /// As last told.
    next_hops: HashMap<Address, NextHop>,
    /// When each backend that left got its last new flow at the latest.
    retired_at: HashMap<BackendId, Instant>,
    last_sweep: Option<Sweep>,
    signal_cache: SignalCache,
}

impl DataPlane {
    /// Checks the host, reads what the running program has, loads a new program, and fills its maps. Attaches nothing and
    /// changes nothing that packets read. Services of the running program keep their weights, those of new ones are zero.
    ///
    /// # Errors
    /// Any [`KernelError`]; running traffic is left as it was.
    pub fn open(setup: impl Into<Setup>) -> Result<Self, KernelError> {
        Self::open_with(load::OBJECT, setup.into())
    }

    fn open_with(object: &[u8], setup: Setup) -> Result<Self, KernelError> {
        let interfaces = preflight::check(&setup)?;
        let pins = Pins::claim(&setup.bpffs)?;
        let meta = load::inspect(&pins, &setup.bpffs, setup.max_flows)?;
        let plan = Plan::new(&interfaces, pins.links()?);
        plan.check(&setup.bpffs, setup.xdp_mode)?;
        let programs = plan.programs(&pins.programs()?);
        // Of agents that died before they attached.
        pins.remove_programs_but(&programs)?;
        let former = Former::read(&pins, &setup.bpffs, &programs)?;
        let blueprint = Blueprint::new(&setup, &former)?;
        let fresh = meta.is_none();
        let opened = Self::load_and_fill(object, &setup, &pins, &interfaces, blueprint, meta, programs.is_empty());
        match opened {
            Ok((ebpf, program, maps, blueprint, flow_key)) => Ok(Self {
                ebpf,
                program,
                maps,
                pins,
                setup,
                blueprint,
                former,
                plan: Some(plan),
                flow_key,
                fresh,
                links: Vec::new(),
                next_hops: HashMap::new(),
                retired_at: HashMap::new(),
                last_sweep: None,
                signal_cache: SignalCache::default(),
            }),
            Err(error) => {
                let cleaned = if fresh { pins.remove_all() } else { pins.remove_programs_but(&programs) };
                if let Err(cleanup) = cleaned {
                    tracing::warn!(%cleanup, "pins_left_behind");
                }
                Err(error)
            }
        }
    }

    fn load_and_fill(
        object: &[u8],
        setup: &Setup,
        pins: &Pins,
        interfaces: &[preflight::Interface],
        mut blueprint: Blueprint,
        meta: Option<grayxdp_common::layout::Meta>,
        is_nothing_running: bool,
    ) -> Result<(Ebpf, u32, Maps, Blueprint, [u64; 2]), KernelError> {
        let capacities = blueprint.capacities(setup);
        let (mut ebpf, program) = load::load(object, pins, capacities)?;
        let mut maps = Maps::take(&mut ebpf, capacities.signals)?;
        if meta.is_some() && is_nothing_running {
            // Without a program's maps the numbers in the flow table mean nothing.
            let flows = fill::forget_state(&mut maps)?;
            tracing::warn!(flows, "flows_forgotten: no link leads to the program that they went through");
        }
        let meta = meta.map_or_else(|| fill::new_meta(capacities.buckets), Ok)?;
        fill::fill(&mut maps, setup, &mut blueprint, interfaces, meta)?;
        Ok((ebpf, program, maps, blueprint, meta.flow_key))
    }

    /// The weights that a former agent left, one for each shard that there was; `None` for a service new to the maps, or
    /// whose v2 is another canary now (its weights are zero then).
    pub fn pinned_weights(&self, service: usize) -> Option<&[Weight]> {
        let slot = self.blueprint.inventory.services.get(service)?;
        self.former.weights(&slot.endpoint).filter(|_| slot.known && !slot.canary_replaced)
    }

    /// The same, where all shards have one weight; else the lowest.
    pub fn pinned_weight(&self, service: usize) -> Option<Weight> {
        self.pinned_weights(service)?.iter().min().copied()
    }

    /// The weight that the kernel applies to each shard of a service now.
    ///
    /// # Errors
    /// Where the map holds a value that is no weight.
    pub fn weights(&self, service: usize) -> Result<Vec<Weight>, KernelError> {
        let read = |slot| self.maps.threshold(slot).and_then(grayxdp_common::weight::Threshold::weight);
        self.weight_slots(service)
            .and_then(|slots| slots.map(read).collect::<Option<Vec<_>>>())
            .ok_or_else(|| failure("read a weight", "it is none that an agent wrote".to_owned()))
    }

    /// The lowest of them.
    ///
    /// # Errors
    /// As for [`Self::weights`].
    pub fn weight(&self, service: usize) -> Result<Weight, KernelError> {
        self.weights(service).map(|weights| weights.into_iter().min().unwrap_or_default())
    }

    /// Makes the kernel apply these weights, one for each shard; it does when this returns. Each is changed by one store.
    ///
    /// # Errors
    /// For a service that there is not, or another number of shards.
    pub fn set_weights(&mut self, service: usize, weights: &[Weight]) -> Result<(), KernelError> {
        let slots = self.weight_slots(service).ok_or_else(|| no_service("write a weight", service))?;
        if slots.len() != weights.len() {
            let reason = format!("{} weights for {} shards", weights.len(), slots.len());
            return Err(failure("write a weight", reason));
        }
        for (slot, weight) in slots.zip(weights) {
            self.maps.set_threshold(slot, weight.threshold());
        }
        Ok(())
    }

    /// The same weight for all shards.
    ///
    /// # Errors
    /// For a service that there is not.
    pub fn set_weight(&mut self, service: usize, weight: Weight) -> Result<(), KernelError> {
        let count = self.weight_slots(service).ok_or_else(|| no_service("write a weight", service))?.len();
        self.set_weights(service, &vec![weight; count])
    }

    /// Backends of a service that the running program took for down when this one was opened.
    pub fn found_down(&self, service: usize) -> Vec<SocketAddr> {
        let down: Vec<BackendId> =
            self.former.numbered.backends.iter().filter(|(_, entry)| entry.is_down()).map(|(id, _)| *id).collect();
        let own = self.blueprint.inventory.backends.iter().filter(|slot| slot.service == service);
        own.filter(|slot| down.contains(&slot.id)).map(|slot| slot.setup.address).collect()
    }

    /// How many services there are.
    pub const fn service_count(&self) -> usize {
        self.setup.services.len()
    }

    /// How many shards a service has; 0 where there is no such service.
    pub fn shard_count(&self, service: usize) -> usize {
        self.weight_slots(service).map_or(0, |slots| slots.len())
    }

    fn weight_slots(&self, service: usize) -> Option<std::ops::Range<u32>> {
        let first = self.blueprint.places.get(service)?.shard_first;
        Some(first..first + self.setup.services.get(service)?.shards.count())
    }

    /// Attaches the program to the interfaces, or puts it in a former one's place there without a gap. From here on it is
    /// what packets meet.
    ///
    /// # Errors
    /// Where one refuses; then none has been attached that was not before.
    pub fn attach(&mut self) -> Result<Vec<Attachment>, KernelError> {
        let plan = self.plan.take().ok_or_else(|| failure("attach the program", "it is attached".to_owned()))?;
        let sources = self.blueprint.source_addresses();
        let ports = self.setup.source_ports;
        self.former.copy_slots(&self.maps.slots, &sources, ports);
        self.inherit_signals();
        let attached = plan.carry_out(load::xdp(&mut self.ebpf)?, &self.pins, self.setup.xdp_mode)?;
        self.former.copy_slots(&self.maps.slots, &sources, ports);
        let (attachments, links) = attached.into_iter().unzip();
        self.links = links;
        self.fresh = false;
        self.maps.go_live();
        self.inherit_signals();
        self.former.signals.clear();
        for slot in self.blueprint.inventory.services.iter().filter(|slot| !slot.known || slot.canary_replaced) {
            self.maps.fuses.arm(slot.id);
        }
        let now = Instant::now();
        self.retired_at = self.blueprint.inventory.retired.iter().map(|(id, _)| (*id, now)).collect();
        self.forget_what_cannot_go_on();
        self.pins.remove_programs_but(&[self.program])?;
        Ok(attachments)
    }

    /// What the former programs counted goes on being counted.
    fn inherit_signals(&self) {
        let (former, inventory) = (&self.former, &self.blueprint.inventory);
        self.maps.signals.rows.inherit(&former.signals, &former.numbered, inventory);
    }

    fn forget_what_cannot_go_on(&self) {
        let (setup, blueprint) = (&self.setup, &self.blueprint);
        let survival = Survival::new(
            &setup.services,
            &blueprint.inventory,
            &self.former.sources,
            &blueprint.sources,
            setup.source_ports,
        );
        let flows = self.maps.flows.forget(|record| !survival.goes_on(record));
        if flows > 0 {
            tracing::info!(flows, "flows_forgotten: their service left, or reaches its backends in another way now");
        }
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
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn abandon(self) -> Result<(), KernelError> {
        if self.fresh {
            return self.take_down();
        }
        // Attaching may have failed halfway: then a link leads to this program, and the next agent reads its maps.
        let is_running = self.pins.links()?.iter().any(|pin| pin.info.is_none_or(|info| info.program == self.program));
        if is_running {
            return Ok(());
        }
        let others: Vec<u32> = self.pins.programs()?.into_iter().filter(|program| *program != self.program).collect();
        self.pins.remove_programs_but(&others)
    }

    fn take_down(self) -> Result<(), KernelError> {
        let Self { ebpf, maps, pins, links, .. } = self;
        drop((links, ebpf, maps));
        pins.remove_all()
    }

    /// Folder of the pins, as the config has it.
    pub fn bpffs(&self) -> &PathBuf {
        &self.setup.bpffs
    }
}

fn failure(what: &'static str, reason: String) -> KernelError {
    KernelError::Map { what, reason }
}

fn no_service(what: &'static str, service: usize) -> KernelError {
    failure(what, format!("there is no service {service}"))
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
