//! The layer `rate_limit`, through its public interface.

mod keys;
mod operators;
mod quotas;
mod served;
mod support;
