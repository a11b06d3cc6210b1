//! What must hold before anything is touched: kernel, capabilities, interfaces, forwarding.

use std::{fs, net::IpAddr, path::Path};

use super::{KernelError, setup::Setup};

/// Oldest kernel that the tests are run on (`cargo xtask test --kernels`). What is used of the kernel is there since 5.12,
/// but whether an older verifier takes the packet program is not known.
const KERNEL_MIN: (u32, u32) = (6, 1);
const KERNEL_MIN_TEXT: &str = "6.1";

/// Capabilities needed, by bit (linux/capability.h). CAP_SYS_ADMIN stands for the first two.
const CAPABILITIES: [(u32, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;

/// An interface of the config that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
}

/// Checks the host against the setup and returns its interfaces.
pub(super) fn check(setup: &Setup) -> Result<Vec<Interface>, KernelError> {
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    check_capabilities()?;
    let interfaces = setup.interfaces.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
    for interface in &interfaces {
        check_forwarding(&interface.name, setup)?;
    }
    Ok(interfaces)
}

fn check_kernel(release: &str) -> Result<(), KernelError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < KERNEL_MIN {
        return Err(KernelError::KernelTooOld { found: release.to_owned(), needed: KERNEL_MIN_TEXT });
    }
    Ok(())
}

/// Refuses where this process lacks a capability that the agent needs.
pub(super) fn check_capabilities() -> Result<(), KernelError> {
    let path = Path::new("/proc/self/status");
    let status = fs::read_to_string(path).map_err(KernelError::io("read", path))?;
    let missing = missing_capabilities(effective_capabilities(&status));
    if missing.is_empty() { Ok(()) } else { Err(KernelError::MissingCapabilities { missing }) }
}

fn effective_capabilities(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let lacks = |&(bit, _): &(u32, &str)| !has(bit) && (bit == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN));
    CAPABILITIES.into_iter().filter(lacks).map(|(_, name)| name).collect()
}

fn find(name: &str) -> Result<Interface, KernelError> {
    let index = std::ffi::CString::new(name).ok().map_or(0, |name| {
        // SAFETY: a NUL-terminated string that outlives the call.
        unsafe { libc::if_nametoindex(name.as_ptr()) }
    });
    if index == 0 {
        return Err(KernelError::UnknownInterface { name: name.to_owned(), known: interface_names() });
    }
    Ok(Interface { name: name.to_owned(), index })
}

/// All interfaces of this network namespace. From procfs: the /sys that is mounted may show another namespace's.
fn interface_names() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

fn check_forwarding(interface: &str, setup: &Setup) -> Result<(), KernelError> {
    for family in ["ipv4", "ipv6"] {
        if !setup.services.iter().any(|service| family_of(service.vip) == family) {
            continue;
        }
        let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
        // A key that is not there (IPv6 switched off, say) reads as off.
        if fs::read_to_string(path).unwrap_or_default().trim() != "1" {
            // For IPv4, ip_forward sets every interface; the key of one IPv6 interface does not forward by itself.
            let sysctl = if family == "ipv4" { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" };
            return Err(KernelError::ForwardingOff { interface: interface.to_owned(), sysctl: sysctl.to_owned() });
        }
    }
    Ok(())
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_by_number() {
        for (release, works) in [
            ("6.18.44", true),
            ("6.1.0-56-cloud-amd64", true),
            ("6.0.12", false),
            ("5.15.0-91-generic", false),
            ("", false),
        ] {
            assert_eq!(check_kernel(release).is_ok(), works, "{release}");
        }
    }

    #[test]
    fn each_missing_capability_is_named() {
        let bits = |bits: &[u32]| bits.iter().map(|bit| 1_u64 << bit).sum::<u64>();
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(bits(&[39, 38])), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(bits(&[12, 21])), [""; 0]);
        assert_eq!(missing_capabilities(bits(&[12, 38])), ["CAP_BPF"]);
    }

    #[test]
    fn the_effective_set_is_read_from_the_status_page() {
        assert_eq!(effective_capabilities("Name:\tx\nCapPrm:\t00000000ffffffff\nCapEff:\t0000000000001000\n"), 1 << 12);
        assert_eq!(effective_capabilities("nonsense"), 0);
    }
}
