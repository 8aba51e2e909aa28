//! Where the times of callers are kept.

mod memory;
#[cfg(test)]
mod model;
mod table;

pub(super) use memory::{Ask, Decision, Memory};
