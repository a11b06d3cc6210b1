//! Keys and values of the maps: plain integers, no padding that is not named. Meanings belong to the other modules.

mod address;
mod backend;
mod control;
mod counters;
mod flow;
mod fragment;
mod owners;
mod service;
mod signals;
mod trace;

pub use self::{
    address::{Address, Endpoint},
    backend::{BACKEND_DOWN, BACKEND_RETIRED, BackendEntry, NextHop, Route},
    control::{Control, Meta, TRACE_ALL, Tracing},
    counters::BackendCounters,
    flow::{
        FLOW_ONE_SIDED, FLOW_SEVER, FLOW_TICK_SHIFT, FLOW_UDP, FlowBucket, FlowEntry, FlowHash, FlowOwner, FlowSeen,
        FlowState, IdleTicks, SEEN_FAULT, SEEN_FIN, SEEN_LATER, SEEN_PACKET, SEEN_REPEATED, SEEN_RST, SEEN_SEGMENT,
        SEEN_SEVERED, SEEN_TURN, SEEN_ZERO_WINDOW, SourceSlot, flow_tick, long_flow_tick,
    },
    fragment::{FragmentEntry, FragmentKey},
    owners::{Owner, OwnerBucket, OwnerSlot, Owners},
    service::{
        KEY_CONNECTION, KEY_SOURCE_IP, METHOD_HASH, METHOD_RANDOM, METHOD_RANGE, MODE_DSR, MODE_FULL_NAT, MODE_IPIP,
        MODE_NAT, MaglevSlots, NO_SERVICE, NetworkKey, PIN_NONE, PoolTable, SERVICE_CIDR_PINS, SERVICE_DSCP_PINS,
        SERVICE_PEEK_DNS, SERVICE_PEEK_HTTP1, SERVICE_PEEK_TLS, SERVICE_SIGNALS, ServiceEntry,
    },
    signals::{
        BUCKETS_PER_LINE, CLIENT_GROUPS, Expected, FlowTimes, FuseAlarm, FuseCell, FuseTally, FuseWindow, GroupCell,
        GroupRow, OVERDUE_US, SIGNAL_SLOTS, Signal, SignalRow, Timing, begin_age, begin_time, begin_us, turn_time,
        turn_us,
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
    assert!(size_of::<SignalRow>() == 256 + 4 * 1536);
    assert!(size_of::<GroupRow>() == 2048);
    assert!(size_of::<FlowTimes>() == 8);
    assert!(size_of::<Expected>() == 8);
    assert!(size_of::<FuseWindow>() == 64);
    assert!(size_of::<FuseCell>() == 64);
    assert!(size_of::<FuseAlarm>() == 32);
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
        Expected,
        FlowBucket,
        FragmentEntry,
        FragmentKey,
        FlowTimes,
        FuseCell,
        FuseWindow,
        GroupRow,
        MaglevSlots,
        Meta,
        NetworkKey,
        OwnerBucket,
        PoolTable,
        Route,
        ServiceEntry,
        SignalRow,
        SourceSlot
    );
}
