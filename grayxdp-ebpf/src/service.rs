//! Whose packet is it: a client's for a service, or a backend's reply? One or two lookups.

use grayxdp_common::{
    ids::{BackendId, ServiceId},
    layout::{BackendEntry, OWNER_BACKEND, OWNER_SERVICE, ServiceEntry},
};

use crate::{maps, parse::Parsed};

/// The part that a packet plays.
pub(crate) enum Role {
    /// From a client, to a service.
    Request(ServiceId, &'static ServiceEntry),
    /// From a backend, to a client.
    Reply(BackendId, &'static BackendEntry),
    /// None of grayxdp's.
    Stranger,
}

#[inline(always)]
pub(crate) fn role(packet: &Parsed) -> Role {
    request(packet).or_else(|| reply(packet)).unwrap_or(Role::Stranger)
}

#[inline(always)]
fn request(packet: &Parsed) -> Option<Role> {
    let owner = maps::endpoint_owner(packet.destination)?;
    if owner.kind != OWNER_SERVICE {
        return None;
    }
    let id = ServiceId(owner.id);
    maps::service(id).map(|service| Role::Request(id, service))
}

#[inline(always)]
fn reply(packet: &Parsed) -> Option<Role> {
    let owner = maps::endpoint_owner(packet.source)?;
    if owner.kind != OWNER_BACKEND {
        return None;
    }
    let id = BackendId::from_raw(u16::try_from(owner.id).ok()?)?;
    maps::backend(id).map(|backend| Role::Reply(id, backend))
}
