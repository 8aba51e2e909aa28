//! The layers `timeout`, `body_limit` and `client::deadline`, through their public interface.

#[path = "../common/mod.rs"]
mod common;

mod arrival;
mod body_limit;
mod client;
mod limits;
mod served;
mod slow_bodies;
mod support;
