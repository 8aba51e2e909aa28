//! Numbers as JSON tells them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// With two decimals.
pub(super) fn rounded(number: f64) -> Value {
    Value::from((number * 100.0).round() / 100.0)
}

/// Milliseconds with two decimals.
pub(super) fn millis(time: Duration) -> Value {
    rounded(time.as_secs_f64() * 1_000.0)
}

/// Milliseconds of Unix time, as a browser's clock tells them.
pub(super) fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
