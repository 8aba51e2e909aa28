//! The only places that read the time.

use std::time::{Instant, SystemTime};

/// The monotonic time, for every duration and deadline. It follows tokio's clock, so that a test that pauses
/// that clock drives every decision; outside of such a test it is [`Instant::now`].
#[inline]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether a test has paused tokio's clock: then that one stands while the system's goes on.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub(crate) fn is_paused() -> bool {
    let (paused, system) = (now(), Instant::now());
    while Instant::now() == system {}
    now() == paused
}

/// The time of day, for log lines only: it may jump, so nothing is decided by it.
#[inline]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}
