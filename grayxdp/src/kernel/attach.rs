//! Puts the program on the devices, and in the place of a former one.
//!
//! What can be refused is looked at before anything is loaded ([`Plan::new`]). Then new devices come first, for only they
//! can still refuse, and nothing has changed yet if one does. On the others the links are pointed to the new program one
//! after the other, each without a gap. An agent that dies between two of them leaves two programs running, each with maps
//! of its own and both on one flow table: connections keep their backends on every device, and new ones go by the weights
//! of the device that they come in on, which are equal but for what an agent changed in the meantime. The next agent
//! replaces both.

use std::{collections::BTreeSet, fs, io, path::Path};

use aya::programs::{
    Xdp, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    AttachedMode, Attachment, KernelError,
    error::causes,
    lingering, netlink,
    pins::{LinkPin, Pins},
    preflight::Interface,
};
use crate::config::XdpMode;

/// What is to become of each device and each pinned link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Devices without a link of ours.
    added: Vec<Interface>,
    /// Devices whose link gets the new program.
    kept: Vec<(Interface, LinkPin)>,
    /// Links of devices that left the config or the host.
    stale: Vec<LinkPin>,
}

impl Plan {
    /// Tells whose link is whose by the device's index, for its name may have changed.
    pub(super) fn new(interfaces: &[Interface], links: Vec<LinkPin>) -> Self {
        let mut plan = Self::default();
        let mut links = links;
        for interface in interfaces {
            // A link that cannot be read is taken for the one that its name says: removing it would take the program off.
            let is_its = |pin: &LinkPin| match pin.info {
                Some(info) => info.interface == interface.index,
                None => pin.interface == interface.name,
            };
            match links.iter().position(is_its) {
                Some(at) => plan.kept.push((interface.clone(), links.swap_remove(at))),
                None => plan.added.push(interface.clone()),
            }
        }
        plan.stale = links;
        plan
    }

    /// Refuses what cannot be done: another mode on a device that traffic flows through, a device that is somebody else's.
    pub(super) fn check(&self, shown: &Path, wanted: XdpMode) -> Result<(), KernelError> {
        for (interface, pin) in &self.kept {
            let wanted = match wanted {
                XdpMode::Auto => continue,
                XdpMode::Native => AttachedMode::Native,
                XdpMode::Generic => AttachedMode::Generic,
            };
            if pin.mode != wanted {
                return Err(KernelError::ModeDiffers {
                    name: interface.name.clone(),
                    found: pin.mode.name(),
                    wanted: wanted.name(),
                    path: shown.to_owned(),
                });
            }
        }
        for interface in &self.added {
            let name = || interface.name.clone();
            // The kernel takes the program of a link that was just given up, by `detach` say, off a moment afterwards.
            match lingering::stays(|| netlink::has_program(interface.index)) {
                Ok(true) => return Err(KernelError::InterfaceBusy { name: name() }),
                Ok(false) => {}
                Err(error) => {
                    return Err(KernelError::Attach { name: name(), reason: format!("cannot ask about it: {error}") });
                }
            }
        }
        Ok(())
    }

    /// Numbers of the programs behind the links, the youngest first; a link whose device is gone still has its own. Should
    /// a link not tell, it may be any of those whose maps are pinned.
    pub(super) fn programs(&self, pinned: &[u32]) -> Vec<u32> {
        let links: Vec<_> = self.kept.iter().map(|(_, pin)| pin).chain(&self.stale).collect();
        let told = links.iter().filter_map(|pin| pin.info).map(|info| info.program);
        let untold = if links.iter().any(|pin| pin.info.is_none()) { pinned } else { &[] };
        let programs: BTreeSet<u32> = told.chain(untold.iter().copied()).collect();
        // The kernel counts upwards.
        programs.into_iter().rev().collect()
    }

    /// Attaches the program to all devices, or to none that it was not attached to before.
    pub(super) fn carry_out(
        mut self,
        program: &mut Xdp,
        pins: &Pins,
        wanted: XdpMode,
    ) -> Result<Vec<(Attachment, PinnedLink)>, KernelError> {
        self.rename(pins)?;
        let mut added: Vec<(Attachment, PinnedLink)> = Vec::new();
        for interface in &self.added {
            match attach_new(program, pins, interface, wanted) {
                Ok((mode, link)) => added.push((attachment(interface, mode), link)),
                Err(error) => {
                    remove_added(pins, &added);
                    return Err(error);
                }
            }
        }
        let mut attached = Vec::new();
        for (interface, pin) in &self.kept {
            let link = replace(program, interface, pin).inspect_err(|_| remove_added(pins, &added))?;
            attached.push((attachment(interface, pin.mode), link));
        }
        attached.extend(added);
        for pin in &self.stale {
            fs::remove_file(&pin.path).map_err(KernelError::io("remove", &pin.path))?;
            tracing::info!(interface = pin.interface, "interface_detached");
        }
        Ok(attached)
    }

    /// Gives every link the name of its device, as that is now; links that lie under another one's name make way.
    fn rename(&mut self, pins: &Pins) -> Result<(), KernelError> {
        let Self { added, kept, stale } = self;
        let names = added.iter().chain(kept.iter().map(|(interface, _)| interface)).map(|interface| &interface.name);
        let wanted: BTreeSet<_> = names.flat_map(|name| AttachedMode::ALL.map(|mode| pins.link(name, mode))).collect();
        for pin in stale.iter_mut().filter(|pin| wanted.contains(&pin.path)) {
            rename(pin, pins.link_aside(pin.mode, pin.info))?;
        }
        let is_misnamed =
            |(interface, pin): &&mut (Interface, LinkPin)| pins.link(&interface.name, pin.mode) != pin.path;
        // First all aside, for they may have changed names with each other.
        for (_, pin) in kept.iter_mut().filter(is_misnamed) {
            rename(pin, pins.link_aside(pin.mode, pin.info))?;
        }
        for (interface, pin) in kept.iter_mut().filter(is_misnamed) {
            tracing::info!(from = pin.interface, to = interface.name, "interface_renamed");
            rename(pin, pins.link(&interface.name, pin.mode))?;
        }
        Ok(())
    }
}

fn rename(pin: &mut LinkPin, to: std::path::PathBuf) -> Result<(), KernelError> {
    fs::rename(&pin.path, &to).map_err(KernelError::io("rename", &pin.path))?;
    pin.path = to;
    Ok(())
}

/// Takes the program off the devices that it was newly attached to.
fn attachment(interface: &Interface, mode: AttachedMode) -> Attachment {
    Attachment { interface: interface.name.clone(), index: interface.index, mode }
}

fn remove_added(pins: &Pins, added: &[(Attachment, PinnedLink)]) {
    for (Attachment { interface, mode, .. }, _) in added {
        let path = pins.link(interface, *mode);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "link_not_removed");
        }
    }
}

/// Puts the new program in the old one's place, atomically.
fn replace(program: &mut Xdp, interface: &Interface, pin: &LinkPin) -> Result<PinnedLink, KernelError> {
    let failed =
        |error: &dyn std::error::Error| KernelError::Attach { name: interface.name.clone(), reason: causes(error) };
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::kernel::link_info::LinkInfo;

    fn interface(name: &str, index: u32) -> Interface {
        Interface { name: name.to_owned(), index }
    }

    fn pin(name: &str, info: Option<(u32, u32)>) -> LinkPin {
        let info = info.map(|(interface, program)| LinkInfo { interface, program });
        let path = PathBuf::from(format!("/nowhere/link-native-{name}"));
        LinkPin { interface: name.to_owned(), mode: AttachedMode::Native, path, info }
    }

    #[test]
    fn links_belong_to_devices_by_index_and_only_unreadable_ones_by_name() {
        let links = vec![
            pin("eth0", Some((2, 10))),
            pin("eth1", Some((0, 10))),
            pin("eth2", None),
            pin("eth3", Some((9, 12))),
            pin("eth4", Some((5, 11))),
        ];
        let devices = [interface("lan", 2), interface("eth1", 7), interface("eth2", 3), interface("eth3", 4)];
        let plan = Plan::new(&devices, links.clone());
        let kept: Vec<_> = plan.kept.iter().map(|(to, pin)| (&to.name[..], &pin.interface[..])).collect();
        assert_eq!(kept, [("lan", "eth0"), ("eth2", "eth2")]);
        assert_eq!(plan.added, [interface("eth1", 7), interface("eth3", 4)]);
        let stale: BTreeSet<_> = plan.stale.iter().map(|pin| &pin.interface[..]).collect();
        assert_eq!(stale, BTreeSet::from(["eth1", "eth3", "eth4"]));
        assert_eq!(plan.programs(&[13, 10]), [13, 12, 11, 10], "eth2's link does not tell");
        let readable = links.into_iter().filter(|pin| pin.info.is_some()).collect();
        assert_eq!(Plan::new(&devices, readable).programs(&[13, 10]), [12, 11, 10]);
    }

    #[test]
    fn another_mode_on_a_running_device_is_refused() {
        let plan = Plan::new(&[interface("lan", 2)], vec![pin("eth0", Some((2, 10)))]);
        for (wanted, works) in [(XdpMode::Auto, true), (XdpMode::Native, true), (XdpMode::Generic, false)] {
            assert_eq!(plan.check(Path::new("/nowhere"), wanted).is_ok(), works, "{wanted:?}");
        }
    }
}
