//! Loads the program on new or pinned maps, attaches it, and takes it down.

use std::{io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use grayxdp_common::{LAYOUT_VERSION, layout::Meta};

use super::{
    AttachedMode, Attachment, KernelError, error::causes, link_info, maps::MAPS, pins::LinkPin, pins::Pins,
    preflight::Interface,
};
use crate::config::XdpMode;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/grayxdp-ebpf"));
const PROGRAM: &str = "grayxdp";

/// Refuses pins that this agent would read wrongly, and removes those of an agent that never filled them.
/// Returns whether the maps are a former agent's.
pub(super) fn inspect(pins: &Pins, shown: &Path, max_flows: u32) -> Result<bool, KernelError> {
    let meta_path = pins.map("META");
    if !meta_path.exists() {
        pins.remove_maps()?;
        return Ok(false);
    }
    let open = KernelError::map::<aya::maps::MapError>("open the pinned maps");
    let meta: Array<MapData, Meta> = match MapData::from_pin(&meta_path) {
        Ok(data) => aya::maps::Map::Array(data).try_into().map_err(KernelError::map("read the pinned maps"))?,
        Err(error) => return Err(open(error)),
    };
    let found = meta.get(&0, 0).map_err(KernelError::map("read the pinned maps"))?.layout_version;
    if found == 0 && pins.links()?.is_empty() {
        pins.remove_maps()?;
        return Ok(false);
    }
    if found != LAYOUT_VERSION {
        return Err(KernelError::LayoutMismatch { path: shown.to_owned(), found, expected: LAYOUT_VERSION });
    }
    let flows = MapData::from_pin(pins.map("FLOWS")).and_then(|map| map.info());
    let found = flows.map_err(KernelError::map("open the pinned flow map"))?.max_entries();
    if found != max_flows {
        return Err(KernelError::FlowsResized { path: shown.to_owned(), found, wanted: max_flows });
    }
    Ok(true)
}

/// Loads the program; maps are pinned, or taken over where they are pinned already.
pub(super) fn load(pins: &Pins, max_flows: u32) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("FLOWS", max_flows);
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let refused = |error: &dyn std::error::Error| KernelError::Load { reason: causes(error) };
    let mut ebpf = loader.load(OBJECT).map_err(|error| refused(&error))?;
    let program = xdp(&mut ebpf)?;
    program.load().map_err(|error| refused(&error))?;
    let instructions = program.info().ok().and_then(|info| info.verified_instruction_count());
    tracing::debug!(verified_instructions = instructions, "program_loaded");
    Ok(ebpf)
}

/// The packet program.
pub(super) fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    let missing = || KernelError::Load { reason: format!("the object has no XDP program `{PROGRAM}`") };
    ebpf.program_mut(PROGRAM).ok_or_else(missing)?.try_into().map_err(|_: ProgramError| missing())
}

/// Attaches the program to all interfaces, or to none that it was not attached to before.
pub(super) fn attach(
    program: &mut Xdp,
    pins: &Pins,
    shown: &Path,
    interfaces: &[Interface],
    wanted: XdpMode,
) -> Result<Vec<(Attachment, PinnedLink)>, KernelError> {
    let pinned = pins.links()?;
    for interface in interfaces {
        check_mode(&pinned, shown, &interface.name, wanted)?;
    }
    // New devices first: only they can refuse, and nothing has changed yet if one does.
    let mut added = Vec::new();
    let mut kept = Vec::new();
    for interface in interfaces {
        match pinned.iter().find(|pin| pin.interface == interface.name && is_on(&pin.path, interface)) {
            Some(pin) => kept.push((interface, pin)),
            None => match attach_new(program, pins, interface, wanted) {
                Ok((mode, link)) => added.push((interface, mode, link)),
                Err(error) => {
                    remove_added(pins, &added);
                    return Err(error);
                }
            },
        }
    }
    let mut attached = Vec::new();
    for (interface, pin) in kept {
        let link = replace(program, pin).inspect_err(|_| remove_added(pins, &added))?;
        attached.push((Attachment { interface: interface.name.clone(), mode: pin.mode }, link));
    }
    let named =
        |(interface, mode, link): (&Interface, _, _)| (Attachment { interface: interface.name.clone(), mode }, link);
    attached.extend(added.into_iter().map(named));
    for pin in pinned.iter().filter(|pin| !interfaces.iter().any(|interface| interface.name == pin.interface)) {
        std::fs::remove_file(&pin.path).map_err(KernelError::io("remove", &pin.path))?;
        tracing::info!(interface = pin.interface, "interface_detached");
    }
    Ok(attached)
}

/// Takes the program off the devices that it was newly attached to.
fn remove_added(pins: &Pins, added: &[(&Interface, AttachedMode, PinnedLink)]) {
    for (interface, mode, _) in added {
        let _ = std::fs::remove_file(pins.link(&interface.name, *mode));
    }
}

fn check_mode(pinned: &[LinkPin], shown: &Path, interface: &str, wanted: XdpMode) -> Result<(), KernelError> {
    let wanted = match wanted {
        XdpMode::Auto => return Ok(()),
        XdpMode::Native => AttachedMode::Native,
        XdpMode::Generic => AttachedMode::Generic,
    };
    match pinned.iter().find(|pin| pin.interface == interface && pin.mode != wanted) {
        Some(pin) => Err(KernelError::ModeDiffers {
            name: interface.to_owned(),
            found: pin.mode.name(),
            wanted: wanted.name(),
            path: shown.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Whether a pinned link is on this very device. The link of a device that is gone stays behind, attached to nothing; it
/// is removed, should another device have come under the same name. A link that cannot be read is taken for a live one:
/// removing it would take the program off.
fn is_on(path: &Path, interface: &Interface) -> bool {
    let same = link_info::ifindex(path).is_none_or(|index| index == interface.index);
    if !same && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "dead_link_not_removed");
    }
    same
}

/// Puts the new program in the old one's place, atomically.
fn replace(program: &mut Xdp, pin: &LinkPin) -> Result<PinnedLink, KernelError> {
    let failed =
        |error: &dyn std::error::Error| KernelError::Attach { name: pin.interface.clone(), reason: causes(error) };
    let link = PinnedLink::from_pin(&pin.path).map_err(|error| failed(&error))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| failed(&error))?;
    let id = program.attach_to_link(link).map_err(|error| failed(&error))?;
    // The program must not own the link, or it would detach when it is dropped; the pin does.
    drop(program.take_link(id).map_err(|error| failed(&error))?);
    PinnedLink::from_pin(&pin.path).map_err(|error| failed(&error))
}

fn attach_new(
    program: &mut Xdp,
    pins: &Pins,
    interface: &Interface,
    wanted: XdpMode,
) -> Result<(AttachedMode, PinnedLink), KernelError> {
    let pin = |link: FdLink, mode| {
        let path = pins.link(&interface.name, mode);
        let pinned = link.pin(path).map_err(KernelError::map("pin a link"))?;
        Ok((mode, pinned))
    };
    let native = match wanted {
        XdpMode::Generic => None,
        XdpMode::Auto | XdpMode::Native => Some(attach_as(program, interface, AyaMode::Driver)),
    };
    match native {
        Some(Ok(link)) => pin(link, AttachedMode::Native),
        Some(Err(Refusal::Busy)) => Err(KernelError::InterfaceBusy { name: interface.name.clone() }),
        Some(Err(Refusal::Other(reason))) if wanted == XdpMode::Native => {
            Err(KernelError::NativeUnsupported { name: interface.name.clone(), reason })
        }
        refused => {
            if let Some(Err(Refusal::Other(reason))) = refused {
                tracing::warn!(
                    interface = interface.name,
                    reason,
                    "native_mode_refused; using generic mode, which is slower"
                );
            }
            match attach_as(program, interface, AyaMode::Skb) {
                Ok(link) => pin(link, AttachedMode::Generic),
                Err(Refusal::Busy) => Err(KernelError::InterfaceBusy { name: interface.name.clone() }),
                Err(Refusal::Other(reason)) => Err(KernelError::Attach { name: interface.name.clone(), reason }),
            }
        }
    }
}

enum Refusal {
    Busy,
    Other(String),
}

fn attach_as(program: &mut Xdp, interface: &Interface, mode: AyaMode) -> Result<FdLink, Refusal> {
    let other = |error: &dyn std::error::Error| Refusal::Other(causes(error));
    let id = program.attach_to_if_index(interface.index, mode).map_err(|error| match os_error(&error) {
        Some(libc::EBUSY | libc::EEXIST) => Refusal::Busy,
        _ => other(&error),
    })?;
    let link = program.take_link(id).map_err(|error| other(&error))?;
    // aya falls back to netlink where the kernel refuses a link; such an attachment cannot be pinned. Dropped, it detaches.
    FdLink::try_from(link).map_err(|error| other(&error))
}

fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.raw_os_error();
    }
    error.source().and_then(os_error)
}
