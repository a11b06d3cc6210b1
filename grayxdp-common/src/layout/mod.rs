//! Keys and values of the maps: plain integers, no padding that is not named. Meanings belong to the other modules.

mod address;
mod backend;
mod control;
mod counters;
mod flow;
mod fragment;
mod owners;
mod service;
mod trace;

pub use self::{
    address::{Address, Endpoint},
    backend::{BACKEND_DOWN, BACKEND_RETIRED, BackendEntry, NextHop, Route},
    control::{Control, Meta, TRACE_ALL},
    counters::BackendCounters,
    flow::{
        FLOW_ONE_SIDED, FLOW_SEVER, FLOW_TICK_SHIFT, FLOW_UDP, FlowBucket, FlowEntry, FlowHash, FlowOwner, FlowSeen,
        FlowState, IdleTicks, SEEN_FIN, SEEN_PACKET, SEEN_RST, SEEN_SEGMENT, SEEN_SEVERED, SourceSlot, flow_tick,
        long_flow_tick,
    },
    fragment::{FragmentEntry, FragmentKey},
    owners::{Owner, OwnerBucket, OwnerSlot, Owners},
    service::{
        KEY_CONNECTION, KEY_SOURCE_IP, METHOD_HASH, METHOD_RANDOM, METHOD_RANGE, MODE_DSR, MODE_FULL_NAT, MODE_IPIP,
        MODE_NAT, MaglevSlots, NO_SERVICE, NetworkKey, PIN_NONE, PoolTable, SERVICE_CIDR_PINS, SERVICE_DSCP_PINS,
        ServiceEntry,
    },
    trace::TraceEvent,
};

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<OwnerBucket>() == 32);
    assert!(size_of::<ServiceEntry>() == 128);
    assert!(size_of::<PoolTable>() == 8);
    assert!(size_of::<MaglevSlots>() == 8);
    assert!(size_of::<NetworkKey>() == 20);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<BackendEntry>() == 64);
    assert!(size_of::<Route>() == 56);
    assert!(size_of::<BackendCounters>() == 88);
    assert!(size_of::<FlowEntry>() == 16);
    assert!(size_of::<FlowBucket>() == 128);
    assert!(size_of::<SourceSlot>() == 32);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentEntry>() == 40);
    assert!(size_of::<Control>() == 64);
    assert!(size_of::<Meta>() == 24);
    assert!(size_of::<TraceEvent>() == 160);
};

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($layout:ident),+) => {$(
            // SAFETY: `repr(C)`, integers only; the size asserts above leave no room for implicit padding.
            unsafe impl aya::Pod for super::$layout {}
        )+};
    }
    pod!(
        Address,
        BackendCounters,
        BackendEntry,
        Control,
        Endpoint,
        FlowBucket,
        FragmentEntry,
        FragmentKey,
        MaglevSlots,
        Meta,
        NetworkKey,
        OwnerBucket,
        PoolTable,
        Route,
        ServiceEntry,
        SourceSlot
    );
}
