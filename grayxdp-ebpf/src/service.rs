//! Whose packet is it: a client's for a service, or a backend's reply? One or two lookups.

use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{Address, BackendEntry, Control, Endpoint, Owner, ServiceEntry},
};

use crate::{
    maps,
    parse::{PROTOCOL_ICMP, PROTOCOL_ICMPV6},
};

/// The part that a packet plays.
pub(crate) enum Role {
    /// From a client, to a service.
    Request(ServiceId),
    /// From a backend, to a client.
    Reply(BackendId),
    /// None of grayxdp's.
    Stranger,
}

/// What a packet is, in one register: the role in the upper half, and who or what in the lower one.
#[derive(Clone, Copy)]
pub(crate) struct Class(pub(crate) u64);

impl Class {
    const REQUEST: u64 = 1 << 32;
    const REPLY: u64 = 2 << 32;
    pub(crate) const STRANGER: u64 = 3 << 32;

    #[inline(always)]
    pub(crate) fn of(role: Role) -> Self {
        Self(match role {
            Role::Request(id) => Self::REQUEST | u64::from(id.0),
            Role::Reply(id) => Self::REPLY | u64::from(id.raw()),
            Role::Stranger => Self::STRANGER,
        })
    }

    /// The role, or the number of an [`crate::parse::Odd`].
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    pub(crate) fn role(self) -> Result<Role, u32> {
        let number = self.0 as u32;
        match self.0 & (3 << 32) {
            Self::REQUEST => Ok(Role::Request(ServiceId(number))),
            Self::REPLY => BackendId::from_raw(number as u16).map(Role::Reply).ok_or(0),
            Self::STRANGER => Ok(Role::Stranger),
            _ => Err(number),
        }
    }
}

/// VERIFIER: endpoints by value. A reference into the parsed packet would keep all of it in memory, packet pointers
/// included, where the compiler stores them in halves.
#[inline(always)]
pub(crate) fn role(control: &Control, source: Endpoint, destination: Endpoint) -> Role {
    if let Some((id, _)) = service_at(control, destination) {
        return Role::Request(id);
    }
    match backend_at(control, source) {
        Some((id, _)) => Role::Reply(id),
        None => Role::Stranger,
    }
}

/// The service that clients meet here.
#[inline(always)]
pub(crate) fn service_at(control: &Control, endpoint: Endpoint) -> Option<(ServiceId, &'static ServiceEntry)> {
    let Some(Owner::Service(id)) = owner(control, endpoint) else { return None };
    let service = maps::service(id)?;
    service.endpoint.is(&endpoint).then_some((id, service))
}

/// The backend that answers from here.
#[inline(always)]
pub(crate) fn backend_at(control: &Control, endpoint: Endpoint) -> Option<(BackendId, &'static BackendEntry)> {
    let Some(Owner::Backend(id)) = owner(control, endpoint) else { return None };
    let backend = maps::backend(id)?;
    backend.endpoint.is(&endpoint).then_some((id, backend))
}

/// Whether some service has this address.
#[inline(always)]
pub(crate) fn is_vip(control: &Control, address: Address) -> bool {
    let protocol = if address.is_v4() { PROTOCOL_ICMP } else { PROTOCOL_ICMPV6 };
    let endpoint = Endpoint { address, protocol, ..Endpoint::default() };
    let Some(Owner::Vip(id)) = owner(control, endpoint) else { return false };
    maps::service(id).is_some_and(|service| service.endpoint.address.is(&address))
}

#[inline(always)]
fn owner(control: &Control, endpoint: Endpoint) -> Option<Owner> {
    let (bucket, tag) = control.owners.place(&endpoint);
    let bucket = maps::owners(bucket)?;
    let mut at = 0;
    while let Some(slot) = bucket.slots.get(at) {
        if slot.is_empty() {
            return None;
        }
        if slot.has(tag) {
            return slot.owner();
        }
        at += 1;
    }
    None
}
