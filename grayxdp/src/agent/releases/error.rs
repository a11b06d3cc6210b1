//! Why a command was not carried out, or not wholly.

use crate::{
    decide::{controller::Refusal, settings::Misfit, weights::Weights},
    kernel::KernelError,
    store::StoreError,
};

/// What is told to whoever gave the command.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum CommandError {
    #[error("there is no service `{name}`; this agent has: {}", known.join(", "))]
    UnknownService { name: String, known: Vec<String> },
    #[error("{service}: there is no shard `{name}`; there are: {known}")]
    UnknownShard { service: String, name: String, known: String },
    #[error("{service}: {refusal}")]
    Refused { service: String, refusal: Refusal },
    #[error("{service}: {misfit}")]
    Misfit { service: String, misfit: Box<Misfit> },
    #[error("{service}: {wrong}")]
    Wrong { service: String, wrong: String },
    #[error(
        "{service}: v2 gets no more traffic while the state cannot be stored, and stays at {weights}: {source}. \
         `rollback` and lower weights work all the same"
    )]
    NotStored { service: String, weights: Weights, source: Box<StoreError> },
    #[error("{service}: the weight stays at {weights}, for the kernel did not take another: {source}")]
    NotRaised { service: String, weights: Weights, source: Box<KernelError> },
    #[error(
        "{service}: the kernel has not taken {weights} yet, which is tried again every second: {source}. If it goes on, \
         `grayxdp detach` takes the packet program down"
    )]
    NotLowered { service: String, weights: Weights, source: Box<KernelError> },
    #[error("{service}: nothing is changed, for the kernel did not take it: {source}")]
    NotSet { service: String, source: Box<KernelError> },
    #[error(
        "{service}: rolled back, and no new connection goes to v2; but those that are open were not severed: {source}. \
         `rollback` again tries again"
    )]
    NotSevered { service: String, source: Box<KernelError> },
}
