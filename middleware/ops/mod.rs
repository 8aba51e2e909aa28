//! What operators and their machines ask of a service.

#[cfg(feature = "health")]
pub mod health;
