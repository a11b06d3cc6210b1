//! Who owns an endpoint: a service, a backend, or (by its address alone) a VIP. One bucket, one half cache line a lookup.
//!
//! The agent builds a table of buckets for a multiplier under which no bucket overflows, writes it beside the one in use,
//! and swaps the two by one store ([`Owners`]). A slot holds a tag and a number; the entry that the number leads to
//! holds the whole endpoint, which is compared, so that a stranger's packet is never taken for a service's.

use super::Endpoint;
use crate::{
    ids::{BackendId, ServiceId},
    limits::{OWNER_BUCKETS, OWNER_SLOTS},
};

/// What owns an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Clients connect to it.
    Service(ServiceId),
    /// It answers.
    Backend(BackendId),
    /// The address (port zero) is the VIP of this service, among others.
    Vip(ServiceId),
}

/// A tag in the high half; kind and number of the owner in the low half. Zero is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct OwnerSlot(pub u32);

const KIND_SHIFT: u32 = 14;
const KIND_SERVICE: u32 = 1;
const KIND_BACKEND: u32 = 2;
const KIND_VIP: u32 = 3;

impl OwnerSlot {
    /// A slot.
    #[inline(always)]
    pub const fn new(tag: u16, owner: Owner) -> Self {
        let (kind, number) = match owner {
            Owner::Service(id) => (KIND_SERVICE, id.0),
            Owner::Backend(id) => (KIND_BACKEND, id.raw() as u32),
            Owner::Vip(id) => (KIND_VIP, id.0),
        };
        Self((tag as u32) << 16 | kind << KIND_SHIFT | number)
    }

    /// Whether nobody owns it; slots behind it are empty too.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it has this tag.
    #[inline(always)]
    pub const fn has(self, tag: u16) -> bool {
        self.0 >> 16 == tag as u32
    }

    /// Who owns it.
    #[inline(always)]
    pub const fn owner(self) -> Option<Owner> {
        let number = self.0 & ((1 << KIND_SHIFT) - 1);
        match (self.0 & 0xffff) >> KIND_SHIFT {
            KIND_SERVICE => Some(Owner::Service(ServiceId(number))),
            KIND_BACKEND => match BackendId::from_raw(number as u16) {
                Some(id) => Some(Owner::Backend(id)),
                None => None,
            },
            KIND_VIP => Some(Owner::Vip(ServiceId(number))),
            _ => None,
        }
    }
}

/// Slots in the order that they were filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct OwnerBucket {
    /// Filled from the front.
    pub slots: [OwnerSlot; OWNER_SLOTS],
}

/// Which of the two tables is in use, and its multiplier: one word, swapped by one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Owners(pub u64);

impl Owners {
    /// Table 0 or 1; of the multiplier, all but the lowest bit counts.
    #[inline(always)]
    pub const fn new(table: u32, multiplier: u64) -> Self {
        Self((multiplier & !1) | (table & 1) as u64)
    }

    /// The table in use.
    #[inline(always)]
    pub const fn table(self) -> u32 {
        (self.0 & 1) as u32
    }

    /// Where an endpoint is looked for: the bucket's index in the map (both tables lie in one map), and the tag.
    ///
    /// Two multiplications by odd numbers with a fold between them: everyone's packets come through here, and whoever aims
    /// at one bucket finds at most [`OWNER_SLOTS`] tags to compare.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to the bits that are wanted")]
    pub const fn place(self, endpoint: &Endpoint) -> (u32, u16) {
        const FOLD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [a, b, c, d] = endpoint.address.words();
        let high = (a as u64 | (b as u64) << 32).wrapping_mul(FOLD);
        let low = c as u64 | (d as u64) << 32;
        let port = endpoint.port.to_wire() as u64 | (endpoint.protocol as u64) << 16;
        let mut hash = (high ^ low).wrapping_add(port.wrapping_mul(FOLD)).wrapping_mul(self.0 | 1);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(FOLD);
        let bucket = (hash >> (64 - OWNER_BUCKETS.trailing_zeros())) as u32;
        (self.table() * OWNER_BUCKETS + bucket, (hash >> 24) as u16)
    }
}
