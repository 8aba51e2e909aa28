//! The layer `rate_limit`, through its public interface.

mod keys;
mod lines;
mod operators;
mod quotas;
mod served;
mod support;
