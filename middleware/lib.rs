//! Tower layers that keep a service upright under load and tell its operators what happened.

#[cfg(feature = "access-log")]
mod clock;
#[cfg(feature = "access-log")]
pub mod context;
#[cfg(feature = "access-log")]
pub mod log;
