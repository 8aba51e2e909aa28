//! Tower layers that keep a service upright under load and tell its operators what happened.

#![forbid(unsafe_code)]
// The gates: what swallows an error, what can panic, what reads the time or spawns in private.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::dbg_macro,
        clippy::disallowed_methods,
        clippy::exit,
        clippy::indexing_slicing,
        clippy::let_underscore_future,
        clippy::let_underscore_must_use,
        clippy::map_err_ignore,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unused_result_ok,
        clippy::unwrap_used
    )
)]
// The core serves all layers: what only a layer that is switched off would use is no dead code.
#![cfg_attr(not(feature = "full"), allow(dead_code, unused_imports))]

pub mod caller;
pub mod client;
pub mod clock;
pub mod context;
pub mod gauge;
#[cfg(all(doctest, feature = "full"))]
mod guide;
#[cfg(any(feature = "load-shed", feature = "back-pressure", feature = "serve"))]
pub mod limit;
#[cfg(feature = "access-log")]
pub mod log;
pub mod observe;
#[cfg(feature = "health")]
pub mod ops;
pub mod outcome;
mod panics;
pub mod protocol;
pub mod rejection;
mod report;
#[cfg(feature = "serve")]
pub mod serve;
pub mod server;
#[cfg(feature = "trace-context")]
mod spans;
pub mod task;
#[cfg(feature = "telemetry")]
pub mod telemetry;
