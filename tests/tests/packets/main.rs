//! The packet program in the real kernel, packet by packet (BPF_PROG_TEST_RUN): verdict, bytes and counters.

mod differential;
mod fixture;
mod flows;
mod fuse;
mod one_sided;
mod passed;
mod placement;
mod rewritten;
mod signals;
mod sources;
mod swept;
mod table;
