//! The whole stack: in its order, from its configuration, changed while it runs.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod costs;
mod hostile;
mod live;
mod off;
mod pages;
mod reload;
mod shown;
mod stack;
mod turns;
