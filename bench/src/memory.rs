//! Kernel memory of a program's maps.

use std::{fs, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::{Ebpf, maps::MapInfo};

use crate::rig;

/// Bytes that the kernel accounts for all maps that a loaded program uses.
pub(crate) fn map_bytes(ebpf: &mut Ebpf, program: &str) -> Result<u64> {
    let info = rig::xdp(ebpf, program)?.info()?;
    let ids = info.map_ids()?.context("the kernel does not tell which maps a program has")?;
    let mut total = 0;
    for id in ids {
        let map = MapInfo::from_id(id)?;
        let file = map.fd()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(&file).as_raw_fd()))?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
        total += bytes.with_context(|| format!("map {id} does not tell its memory"))?;
    }
    Ok(total)
}
