//! The one line for each change of a setting while the program runs.

use std::fmt::Display;

/// Tells that a setting was changed, by whom (`file`, or the address of an operator's machine) and how.
pub(crate) fn tell(by: &str, setting: &str, from: &dyn Display, to: &dyn Display) {
    tracing::info!(
        target: "plimsoll::ops",
        event = "setting_changed",
        by,
        setting,
        from = %from,
        to = %to,
        "a setting was changed",
    );
}
