//! Where the times of callers are kept.

mod memory;
mod table;

pub(super) use memory::{Ask, Decision, Memory};
