//! Which device a pinned link is attached to; aya does not say.

use std::{
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `BPF_OBJ_GET` (linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;

/// The head of `union bpf_attr` that the command reads.
#[repr(C)]
struct ObjGetAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The device's index; 0 for a link whose device is gone, `None` where there is no link at this path.
pub(super) fn ifindex(pin: &Path) -> Option<u32> {
    let link = open(pin)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).ok()?;
    ifindex_in(&info)
}

fn open(pin: &Path) -> Option<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes()).ok()?;
    let attributes = ObjGetAttributes { pathname: path.as_ptr().addr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the kernel reads as many bytes as it is told, and the path, both of which outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<ObjGetAttributes>()) };
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: a new descriptor that nobody else knows of.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ifindex_in(info: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix("ifindex:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_read_from_the_descriptors_page() {
        assert_eq!(ifindex_in("pos:\t0\nlink_type:\txdp\nprog_id:\t7\nifindex:\t12\n"), Some(12));
        assert_eq!(ifindex_in("link_type:\txdp\nifindex:\t0\n"), Some(0));
        assert_eq!(ifindex_in("pos:\t0\n"), None);
    }
}
