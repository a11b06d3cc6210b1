//! Loads the program: on the pinned state of former ones where there is some, with other maps of its own.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{ProgramError, Xdp},
};
use grayxdp_common::{LAYOUT_VERSION, layout::Meta};

use super::{
    KernelError,
    error::causes,
    flows,
    maps::{INVENTORY_MAPS, STATE_MAPS},
    pins::Pins,
    signals::Shape,
};

/// The program that the agent loads.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/grayxdp-ebpf"));
const PROGRAM: &str = "grayxdp";

/// Capacities that depend on the setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacities {
    /// Of the flow table.
    pub(super) buckets: u32,
    /// Shards of all services.
    pub(super) weights: u32,
    /// Groups of Maglev slots.
    pub(super) groups: u32,
    /// Source ports of all addresses.
    pub(super) source_slots: u32,
    /// Of the maps of signals.
    pub(super) signals: Shape,
}

/// Refuses pins that this agent would read wrongly, and removes those of an agent that never filled them. Returns what
/// the pins are, if they are a former agent's.
pub(super) fn inspect(pins: &Pins, shown: &Path, max_flows: u32) -> Result<Option<Meta>, KernelError> {
    let path = pins.map("META");
    if !path.exists() {
        pins.remove_maps()?;
        return Ok(None);
    }
    let (opened, read) = ("open the pinned maps", "read the pinned maps");
    // Of this layout only the first number is known to be there: an older one may have been shorter.
    let data = MapData::from_pin(&path).map_err(KernelError::map(opened))?;
    let value_size = data.info().map_err(KernelError::map(read))?.value_size();
    let mismatch = |found| KernelError::LayoutMismatch { path: shown.to_owned(), found, expected: LAYOUT_VERSION };
    if value_size as usize != size_of::<Meta>() {
        let former: Array<MapData, u64> =
            aya::maps::Map::Array(data).try_into().map_err(|_: aya::maps::MapError| mismatch(0))?;
        let word = former.get(&0, 0).map_err(KernelError::map(read))?;
        return Err(mismatch(u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)));
    }
    let meta: Array<MapData, Meta> = aya::maps::Map::Array(data).try_into().map_err(KernelError::map(read))?;
    let meta = meta.get(&0, 0).map_err(KernelError::map(read))?;
    if meta.layout_version == 0 && pins.links()?.is_empty() {
        pins.remove_maps()?;
        return Ok(None);
    }
    if meta.layout_version != LAYOUT_VERSION {
        return Err(mismatch(meta.layout_version));
    }
    if meta.flow_buckets != flows::buckets_for(max_flows) {
        let found = flows::flows_of(meta.flow_buckets);
        return Err(KernelError::FlowsResized { path: shown.to_owned(), found, wanted: max_flows });
    }
    Ok(Some(meta))
}

/// Loads the program. State is pinned, or taken over where it is pinned already; maps that the next agent is to read are
/// pinned under the program's number, which is returned too.
pub(super) fn load(object: &[u8], pins: &Pins, capacities: Capacities) -> Result<(Ebpf, u32), KernelError> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("FLOWS", capacities.buckets)
        .map_max_entries("FLOW_TIMES", flows::entries_of(capacities.buckets))
        .map_max_entries("EXPECTED", capacities.buckets)
        .map_max_entries("SIGNALS", capacities.signals.row_count())
        .map_max_entries("GROUPS", capacities.signals.group_count())
        .map_max_entries("FUSE_WINDOWS", capacities.signals.window_count())
        .map_max_entries("WEIGHTS", capacities.weights.max(1))
        .map_max_entries("TABLES", capacities.groups.max(1))
        .map_max_entries("SOURCE_SLOTS", capacities.source_slots.max(1));
    for name in STATE_MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let refused = |error: &dyn std::error::Error| KernelError::Load { reason: causes(error) };
    let mut ebpf = loader.load(object).map_err(|error| refused(&error))?;
    let program = xdp(&mut ebpf)?;
    verify(program).map_err(|error| refused(&error))?;
    let info = program.info().map_err(|error| refused(&error))?;
    let id = info.id();
    tracing::debug!(program = id, verified_instructions = info.verified_instruction_count(), "program_loaded");
    for name in INVENTORY_MAPS {
        let map =
            ebpf.map(name).ok_or_else(|| KernelError::Load { reason: format!("the object has no map {name}") })?;
        map.pin(pins.program_map(name, id)).map_err(KernelError::map("pin a map"))?;
    }
    Ok((ebpf, id))
}

/// Has the kernel check the program. It gives up, to be asked again, where something else wants the thread's attention.
fn verify(program: &mut Xdp) -> Result<(), ProgramError> {
    const ATTEMPTS_MAX: u32 = 5;
    let is_interrupted = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    };
    for _ in 1..ATTEMPTS_MAX {
        match program.load() {
            Err(error) if is_interrupted(&error) => {}
            done => return done,
        }
    }
    program.load()
}

/// The packet program.
pub(super) fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    let missing = || KernelError::Load { reason: format!("the object has no XDP program `{PROGRAM}`") };
    ebpf.program_mut(PROGRAM).ok_or_else(missing)?.try_into().map_err(|_: ProgramError| missing())
}
