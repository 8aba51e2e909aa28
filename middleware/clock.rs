//! The only places that read the time.
#![allow(
    clippy::disallowed_methods,
    reason = "the rest of the crate reads the time here"
)]

use std::time::{Instant, SystemTime};

/// Now, for measuring how long something took. Follows tokio's clock, so that paused tests drive it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time of day, for what people read.
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}
