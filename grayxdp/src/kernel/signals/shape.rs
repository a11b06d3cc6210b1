//! Where rows of backends, services and CPUs lie in the maps of signals. Pure, but for the number of CPUs.

use grayxdp_common::{
    ids::{BackendId, ServiceId, Version},
    layout::Control,
    limits::BACKENDS_MAX,
};

use crate::kernel::{KernelError, inventory::Inventory};

/// Backends that may come while a program runs, besides as many as there are: those beyond are not watched.
const ROWS_SPARE: u32 = 32;
/// So many at the most: a row takes 6.4 kB for each CPU, and one more.
const ROWS_SPARE_MAX: u32 = 512;

/// How rows lie in their maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Shape {
    /// CPUs.
    pub(in crate::kernel) stripes: u32,
    /// Rows for backends in each stripe.
    pub(in crate::kernel) rows: u16,
    /// Services in each stripe.
    pub(in crate::kernel) services: u16,
}

impl Shape {
    /// For what there is, with room for backends that come later.
    pub(in crate::kernel) fn new(inventory: &Inventory) -> Result<Self, KernelError> {
        let stripes =
            aya::util::nr_cpus().map_err(|(_, error)| KernelError::io("read", "/sys/devices/system/cpu")(error))?;
        let highest = inventory.entries().map(|(id, _)| u32::from(id.raw())).max().unwrap_or(0);
        let rows = (highest + (highest + ROWS_SPARE).min(ROWS_SPARE_MAX)).min(BACKENDS_MAX);
        let services = inventory.services.iter().map(|slot| slot.id.0 + 1).max().unwrap_or(1);
        Ok(Self {
            stripes: u32::try_from(stripes).unwrap_or(1),
            rows: u16::try_from(rows).unwrap_or(0),
            services: u16::try_from(services).unwrap_or(0),
        })
    }

    /// Of a program, by what its map of all services' values says.
    pub(in crate::kernel) const fn of(control: &Control) -> Self {
        Self { stripes: control.signal_stripes, rows: control.signal_rows, services: control.signal_services }
    }

    /// Elements of the map of rows.
    pub(in crate::kernel) const fn row_count(self) -> u32 {
        (self.stripes + 1) * self.rows as u32 + self.services as u32 * 2
    }

    /// Elements of the map of groups.
    pub(in crate::kernel) const fn group_count(self) -> u32 {
        (self.stripes + 1) * self.services as u32 * 2
    }

    /// Elements of the map of the fuses' windows.
    pub(in crate::kernel) const fn window_count(self) -> u32 {
        self.stripes * self.services as u32
    }

    /// Every row of a backend, the agent's own last; none for one that is not watched.
    pub(super) fn rows_of(self, id: BackendId) -> impl Iterator<Item = u32> + Clone {
        let (rows, id) = (u32::from(self.rows), u32::from(id.raw()));
        (0..=self.stripes).filter(move |_| id < rows).map(move |stripe| stripe * rows + id)
    }

    pub(super) fn own_row(self, id: BackendId) -> Option<u32> {
        self.rows_of(id).last()
    }

    /// The row of what was counted for a version by backends that have none any more.
    pub(super) fn past_row(self, service: ServiceId, version: Version) -> Option<u32> {
        let is_there = service.0 < u32::from(self.services);
        is_there.then(|| (self.stripes + 1) * u32::from(self.rows) + service.pool(version))
    }

    /// Every row of a version's groups, the agent's own last.
    pub(super) fn groups_of(self, service: ServiceId, version: Version) -> impl Iterator<Item = u32> + Clone {
        let services = u32::from(self.services);
        let stripes = (0..=self.stripes).filter(move |_| service.0 < services);
        stripes.map(move |stripe| stripe * services * 2 + service.pool(version))
    }
}
