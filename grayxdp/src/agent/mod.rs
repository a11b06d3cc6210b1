//! The agent: one loop that lets time pass for the releases, answers the control socket, and is scraped.
//!
//! It decides nothing: what becomes of a release is decided in `decide/`, what becomes of a packet in the kernel. When it
//! ends, however it ends, pins and links stay and traffic goes on at the weights that the kernel has.

mod analysis;
mod answers;
mod api;
mod explain;
mod exporter;
mod external;
#[cfg(test)]
mod fake_kernel;
mod flows;
pub mod health;
mod insight;
mod journal;
mod kernel;
pub mod next_hops;
mod releases;
mod request;
mod run;
pub mod shapes;
mod signals;
mod socket;
mod status;
mod trace;
mod watches;

use std::{io, net::SocketAddr};

pub use self::{external::ClientError as ExternalError, run::run, socket::SocketError};
use crate::{kernel::KernelError, store::StoreError};

/// Why the agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The control socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metrics port cannot be had.
    #[error(
        "cannot listen on {address} for metrics: {source}. Stop what uses the port (`ss -ltnp` shows it), or set another \
         `metrics` address under [agent]"
    )]
    Metrics {
        /// From the config.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The state database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Others cannot be asked or called.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// The system refuses what every process may have.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}
