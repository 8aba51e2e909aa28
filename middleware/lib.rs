//! Tower layers that keep a service upright under load and tell its operators what happened.

// The core serves all layers: what only a layer that is switched off would use is no dead code.
#![cfg_attr(not(feature = "full"), allow(dead_code, unused_imports))]

pub mod client;
pub mod clock;
pub mod context;
pub mod gauge;
#[cfg(all(doctest, feature = "full"))]
mod guide;
#[cfg(feature = "access-log")]
pub mod log;
pub mod observe;
pub mod outcome;
mod panics;
pub mod protocol;
pub mod rejection;
pub mod server;
pub mod task;
