//! Fuses as the agent sees them: whether they have blown, and how they are armed again.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use grayxdp_common::{
    ids::ServiceId,
    layout::{FuseAlarm, FuseCell, FuseTally, FuseWindow},
};

use super::{
    DataPlane, KernelError,
    mapped::Mapped,
    maps::{mapped, take_ring},
    no_service,
    signals::Shape,
};

/// What blew a fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blown {
    /// When, by the monotonic clock, in nanoseconds; see [`super::now_ns`].
    pub at_ns: u64,
    /// New flows and failures of v1 and v2 in the time that was judged.
    pub tally: FuseTally,
}

/// The state of a service's fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuseState {
    /// The service has none.
    None,
    /// New flows go by the weights.
    Armed,
    /// New flows go to v1, but for those that are pinned to v2, until it is armed again.
    Blown(Blown),
}

/// The maps of fuses.
pub(super) struct Fuses {
    shape: Shape,
    fuses: Mapped<FuseCell>,
    windows: Mapped<FuseWindow>,
    alarms: Option<RingBuf<MapData>>,
}

impl Fuses {
    pub(super) fn take(ebpf: &mut Ebpf, shape: Shape) -> Result<Self, KernelError> {
        let alarms = Some(take_ring(ebpf, "ALARMS")?);
        Ok(Self { shape, fuses: mapped(ebpf, "FUSES")?, windows: mapped(ebpf, "FUSE_WINDOWS")?, alarms })
    }

    /// Whether a service's fuse has blown.
    pub(super) fn blown(&self, id: ServiceId) -> Option<Blown> {
        let cell = self.fuses.load(id.0)?;
        (cell.blown_ns != 0).then_some(Blown { at_ns: cell.blown_ns, tally: cell.tally })
    }

    /// Arms a service's fuse, and forgets the failures so far. Those that come meanwhile may be forgotten, too.
    pub(super) fn arm(&self, id: ServiceId) {
        let services = u32::from(self.shape.services);
        for cpu in (0..self.shape.stripes).filter(|_| id.0 < services) {
            self.windows.store(cpu * services + id.0, &FuseWindow::default());
        }
        self.fuses.store(id.0, &FuseCell::default());
    }
}

/// Fuses that blow. Readable (poll, or tokio's `AsyncFd`) where there is an alarm; read until there is none. What blew while
/// nobody listened, or under another agent's program, is not told: ask [`DataPlane::fuse`].
pub struct FuseAlarms {
    ring: RingBuf<MapData>,
}

impl FuseAlarms {
    /// The next alarm, if there is one.
    pub fn next_alarm(&mut self) -> Option<FuseAlarm> {
        loop {
            let item = self.ring.next()?;
            if item.len() >= size_of::<FuseAlarm>() {
                // SAFETY: long enough, and integers without padding may hold any bytes.
                return Some(unsafe { item.as_ptr().cast::<FuseAlarm>().read_unaligned() });
            }
        }
    }
}

impl AsFd for FuseAlarms {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl DataPlane {
    /// The state of a service's fuse; it is kept when agents and programs change.
    pub fn fuse(&self, service: usize) -> FuseState {
        let own = self.setup.services.get(service).zip(self.blueprint.inventory.services.get(service));
        match own.filter(|(setup, _)| setup.signals.fuse.is_some()) {
            None => FuseState::None,
            Some((_, slot)) => self.maps.fuses.blown(slot.id).map_or(FuseState::Armed, FuseState::Blown),
        }
    }

    /// Arms a service's fuse: new flows go by the weights again, and failures are counted from now on.
    ///
    /// # Errors
    /// Where there is no such service.
    pub fn rearm_fuse(&mut self, service: usize) -> Result<(), KernelError> {
        let slot = self.blueprint.inventory.services.get(service).ok_or_else(|| no_service("arm a fuse", service))?;
        self.maps.fuses.arm(slot.id);
        Ok(())
    }

    /// Fuses that blow from now on; once.
    pub fn fuse_alarms(&mut self) -> Option<FuseAlarms> {
        self.maps.fuses.alarms.take().map(|ring| FuseAlarms { ring })
    }

    /// The service of an alarm: an index into the setup's services.
    pub fn alarmed(&self, alarm: &FuseAlarm) -> Option<usize> {
        self.blueprint.inventory.service_index(ServiceId(alarm.service))
    }
}
