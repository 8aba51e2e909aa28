//! What operators and their machines ask of a service.

#[cfg(feature = "ops")]
pub(crate) mod change;
#[cfg(feature = "health")]
pub mod health;
