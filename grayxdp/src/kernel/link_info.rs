//! What a pinned link is attached to, and which program it runs; aya does not tell the device.

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

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Index of the device; 0 where that is gone.
    pub(super) interface: u32,
    /// Number of the program.
    pub(super) program: u32,
}

/// `None` where there is no link at this path, or none that can be read.
pub(super) fn read(pin: &Path) -> Option<LinkInfo> {
    let link = open(pin)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).ok()?;
    parse(&info)
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

fn parse(info: &str) -> Option<LinkInfo> {
    let number = |key: &str| info.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
    Some(LinkInfo { interface: number("ifindex:")?, program: number("prog_id:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_program_are_read_from_the_descriptors_page() {
        let info = |interface, program| Some(LinkInfo { interface, program });
        let page = "pos:\t0\nlink_type:\txdp\nlink_id:\t3\nprog_tag:\tab\nprog_id:\t7\nifindex:\t12\n";
        assert_eq!(parse(page), info(12, 7));
        assert_eq!(parse("link_type:\txdp\nprog_id:\t8\nifindex:\t0\n"), info(0, 8));
        assert_eq!(parse("pos:\t0\n"), None);
    }
}
