//! The serve loop against peers that stall, flood and stay, and its end.

mod callers;
#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod details;
mod drain;
mod floods;
mod gates;
mod peers;
mod storm;
mod support;
mod takers;
mod transports;
mod upgrades;
