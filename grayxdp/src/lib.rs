//! grayxdp: grayscale (canary) releases for any TCP or UDP service, in the kernel.
//!
//! Code map, from pure to impure:
//!
//! - [`percent`]: weights as people and JSON meet them.
//! - [`cidr`]: networks, and ranges of addresses as networks.
//! - [`config`]: the config file, checked once; the only place of defaults.
//! - [`decide`]: what weights and tables are to be. Pure: no clock, no I/O.
//! - [`simulate`]: releases against modelled traffic; pure, the seed is an argument.
//! - [`model`]: what the packet program ought to do; tests compare the two.
//! - [`metrics`]: names and help of all metrics.
//! - [`store`]: what outlives the agent; all SQL.
//! - [`kernel`]: program, maps and pins; the only importer of aya.
//! - [`agent`]: the loop that joins them; decides nothing.
//! - [`cli`]: the command line; talks to the agent over its socket.

pub mod agent;
pub mod cidr;
pub mod cli;
pub mod config;
pub mod decide;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod percent;
pub mod simulate;
pub mod store;
