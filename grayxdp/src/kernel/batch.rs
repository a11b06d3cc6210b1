//! Many values of a per-CPU array by one system call, `BPF_MAP_LOOKUP_BATCH` (Linux 5.13): thousands of lookups would cost
//! more than all that the agent does with what they say.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};

use super::KernelError;

/// Command of `bpf(2)` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// The command's part of `union bpf_attr` (linux/bpf.h). Addresses are numbers, zero for none.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Room for values of all CPUs, in bytes: a system call for so many costs little beside copying them.
const BUFFER_BYTES: usize = 64 * 1024;

/// The first `count` elements of a per-CPU array, each the sum over the CPUs.
///
/// # Errors
/// Where the kernel refuses, and where the map's values are no `T`.
pub(super) fn sums<T: Pod + Default>(
    what: &'static str,
    map: &MapData,
    count: u32,
    plus: impl Fn(T, T) -> T,
) -> Result<Vec<T>, KernelError> {
    // The kernel rounds each CPU's value up to eight bytes.
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
    let wrong = |reason: String| KernelError::Map { what, reason };
    let info = map.info().map_err(KernelError::map(what))?;
    if info.value_size() as usize != size_of::<T>() {
        return Err(wrong(format!("values have {} bytes, not {}", info.value_size(), size_of::<T>())));
    }
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::io("read", "/sys/devices/system/cpu")(error))?;
    let count = count.min(info.max_entries()) as usize;
    let at_once = (BUFFER_BYTES / (size_of::<T>() * cpus)).clamp(1, count.max(1));
    let mut keys = vec![0; at_once];
    let mut values = vec![T::default(); at_once * cpus];
    let mut sums = Vec::with_capacity(count);
    while sums.len() < count {
        let keys = keys.get_mut(..at_once.min(count - sums.len())).unwrap_or_default();
        let wanted = keys.len();
        let after = sums.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let found = lookup(map, after, keys, &mut values).map_err(|error| wrong(error.to_string()))?;
        if found as usize != wanted {
            return Err(wrong(format!("{found} of {wanted} elements came")));
        }
        let of_elements = values.chunks_exact(cpus).take(wanted);
        sums.extend(of_elements.map(|of_cpus| of_cpus.iter().fold(T::default(), |sum, &one| plus(sum, one))));
    }
    Ok(sums)
}

/// Fills both from the first element on, or from the one after another; returns how many elements came. Keys come in order,
/// for it is an array.
fn lookup<T: Pod>(map: &MapData, after: Option<u32>, keys: &mut [u32], values: &mut [T]) -> io::Result<u32> {
    let mut last = 0_u32;
    let mut attr = BatchAttr {
        in_batch: after.as_ref().map_or(0, |after| std::ptr::from_ref(after).expose_provenance() as u64),
        out_batch: (&raw mut last).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: u32::try_from(map.fd().as_fd().as_raw_fd()).unwrap_or(u32::MAX),
        ..BatchAttr::default()
    };
    // SAFETY: the kernel writes at most `count` keys and as many values of all possible CPUs, for which there is room: the
    // caller has compared the size of a value and counted the CPUs. It reads one key where `in_batch` says so.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            (&raw mut attr).cast::<libc::c_void>(),
            size_of::<BatchAttr>(),
        )
    };
    let error = io::Error::last_os_error();
    // So it says that these were the last ones.
    if done < 0 && error.raw_os_error() != Some(libc::ENOENT) { Err(error) } else { Ok(attr.count) }
}
