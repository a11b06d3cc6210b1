//! Counters of a backend.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters of a backend, one set for each CPU. Index of the map: [`crate::ids::BackendId`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(C)]
        pub struct BackendCounters {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl BackendCounters {
            /// Every counter of both, added.
            #[must_use]
            pub const fn plus(self, other: Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)+ }
            }
        }
    };
}

counters! {
    /// Packets from clients.
    packets_in,
    /// Bytes from clients, from the IP header on.
    bytes_in,
    /// Packets to clients.
    packets_out,
    /// Bytes to clients, from the IP header on.
    bytes_out,
    /// New connections (TCP: SYNs) and conversations (UDP) that were sent here by the weights of their time.
    new_flows,
    /// Of these, those that a pin sent here.
    pinned_flows,
    /// Of these, those whose version had no live backend, so that the other version's took them.
    fallback_flows,
    /// TCP packets that should have had a flow entry and had none: connections that may just have been broken.
    flow_misses,
    /// Flows for which the flow table had no place; they go by hash alone.
    untracked_flows,
    /// ICMP errors that backends, or hosts on the way to them, sent about flows.
    icmp_errors,
    /// Connections reset because they were severed.
    severed_flows,
}
