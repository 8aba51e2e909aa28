//! The limit and both layers that let calls in by it: `load_shed` and `back_pressure`.

#[path = "../common/mod.rs"]
mod common;

mod cancels;
mod costs;
mod edges;
mod handles;
mod hostile;
mod overload;
mod pressure;
mod served;
mod shed;
mod signals;
mod support;
mod upgrades;
mod world;
