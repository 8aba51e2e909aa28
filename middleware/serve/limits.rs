//! What a connection may take, and for how long.

use std::time::Duration;

/// The limits of one connection and of all. Each default is safe for a service that nobody tuned.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write_stall: Duration,
    pub(super) connections: usize,
    pub(super) age: Option<Duration>,
    pub(super) streams: u32,
    pub(super) max_head_bytes: u32,
    pub(super) ping: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            connections: 10_000,
            age: None,
            streams: 200,
            max_head_bytes: 16 * 1024,
            ping: None,
        }
    }
}
