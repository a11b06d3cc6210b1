//! Whether a device has an XDP program already (rtnetlink(7), IFLA_XDP). Attaching would tell as well, but a driver may
//! reset its rings for it.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
/// Bits of an attribute's type that say how it is encoded.
const TYPE_MASK: u16 = 0x3fff;
const HEADER_LEN: usize = size_of::<libc::nlmsghdr>();
/// Of `struct ifinfomsg`.
const INTERFACE_LEN: usize = 16;

/// Asks the kernel of this network namespace.
pub(super) fn has_program(interface: u32) -> io::Result<bool> {
    let answer = ask(&request(interface))?;
    let kind = answer.get(4..6).map(read_u16).unwrap_or_default();
    if i32::from(kind) == libc::NLMSG_ERROR {
        let errno = answer.get(HEADER_LEN..HEADER_LEN + 4).and_then(|bytes| bytes.try_into().ok());
        return Err(io::Error::from_raw_os_error(-errno.map_or(-libc::EIO, i32::from_ne_bytes)));
    }
    Ok(is_attached(answer.get(HEADER_LEN + INTERFACE_LEN..).unwrap_or_default()))
}

fn request(interface: u32) -> Vec<u8> {
    let mut message = Vec::new();
    let len = u32::try_from(HEADER_LEN + INTERFACE_LEN).unwrap_or(0);
    message.extend(len.to_ne_bytes());
    message.extend(libc::RTM_GETLINK.to_ne_bytes());
    message.extend((u16::try_from(libc::NLM_F_REQUEST).unwrap_or(0)).to_ne_bytes());
    // Sequence and port; then family, padding and type.
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(interface.to_ne_bytes());
    // Flags and their mask.
    message.extend([0; 8]);
    message
}

fn ask(request: &[u8]) -> io::Result<Vec<u8>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no memory.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows of.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the kernel reads as many bytes as it is told.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    // The description of one device takes two or three kilobytes.
    let mut answer = vec![0; 1 << 16];
    // SAFETY: the kernel writes at most as many bytes as it is told.
    let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    answer.truncate(usize::try_from(received).map_err(|_| io::Error::last_os_error())?);
    Ok(answer)
}

fn is_attached(attributes: &[u8]) -> bool {
    let Some(xdp) = find(attributes, IFLA_XDP) else { return false };
    find(xdp, IFLA_XDP_ATTACHED).and_then(<[u8]>::first).is_some_and(|&mode| mode != 0)
}

/// The payload of the first attribute of this type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(read_u16(attributes.get(..2)?));
        let kind = read_u16(attributes.get(2..4)?) & TYPE_MASK;
        let payload = attributes.get(4..len)?;
        if kind == wanted {
            return Some(payload);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn read_u16(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(payload.len() + 4).expect("short").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_attachment_is_found_among_a_devices_attributes() {
        let name = attribute(3, b"eth0\0");
        let with = |xdp: &[u8]| [name.clone(), attribute(IFLA_XDP | 0x8000, xdp), attribute(60, &[1])].concat();
        assert!(is_attached(&with(&attribute(IFLA_XDP_ATTACHED, &[2]))));
        assert!(!is_attached(&with(&attribute(IFLA_XDP_ATTACHED, &[0]))));
        assert!(!is_attached(&with(&[])));
        assert!(!is_attached(&name));
        for cut in 0..name.len() {
            assert!(find(&name[..cut], 99).is_none());
        }
    }

    #[test]
    fn the_kernel_answers() {
        assert!(has_program(1).is_ok(), "the loopback device");
        assert_eq!(has_program(0x7fff_0000).expect_err("no such device").raw_os_error(), Some(libc::ENODEV));
    }
}
