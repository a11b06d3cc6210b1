//! What the end-to-end tests and the demo are built from: network namespaces, real servers, real clients, the agent.
//!
//! Everything that is made here is named after the process that made it (`gx-<pid>-…`) and undone on drop; `sweep`
//! undoes it when the process dies before that. Needs root.

pub mod agent;
pub mod api;
pub mod config;
pub mod dns;
pub mod faulty;
pub mod load;
pub mod netns;
pub mod others;
pub mod process;
pub mod prometheus;
pub mod scene;
pub mod server;
pub mod sweep;
pub mod topology;
pub mod traffic;
pub mod tunnel;
