//! The serve loop against peers that stall, flood and stay, and its end.

#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod drain;
mod floods;
mod gates;
mod peers;
mod support;
mod takers;
mod transports;
