//! Layers for the side that asks.

#[cfg(feature = "deadline")]
pub mod deadline;
#[cfg(feature = "propagate")]
pub mod propagate;
#[cfg(feature = "trace-context")]
pub mod trace_context;
