//! Tower layers that keep a service upright under load and tell its operators what happened.

pub mod client;
pub mod clock;
pub mod context;
pub mod observe;
pub mod outcome;
mod panics;
pub mod protocol;
pub mod rejection;
pub mod server;
pub mod task;
