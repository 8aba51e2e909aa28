//! Layers for the side that asks.

#[cfg(feature = "propagate")]
pub mod propagate;
