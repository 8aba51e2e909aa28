//! Layers for the side that answers.

#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "back-pressure")]
pub mod back_pressure;
#[cfg(feature = "body-limit")]
pub mod body_limit;
#[cfg(feature = "catch-panic")]
pub mod catch_panic;
#[cfg(feature = "load-shed")]
pub mod load_shed;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
#[cfg(feature = "request-id")]
pub mod request_id;
#[cfg(feature = "timeout")]
pub mod timeout;
#[cfg(feature = "trace-context")]
pub mod trace_context;
