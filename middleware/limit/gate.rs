use std::time::Instant;

use crate::context::Priority;

/// Something besides the limit that may have calls rejected: it is asked before a call is let in.
///
/// ```
/// use std::{sync::atomic::{AtomicBool, Ordering}, time::Instant};
/// use plimsoll::{context::Priority, limit::Gate};
///
/// /// Lets only the most important calls in while the disk is full.
/// struct DiskGate(AtomicBool);
///
/// impl Gate for DiskGate {
///     fn name(&self) -> &'static str {
///         "disk"
///     }
///
///     fn admits(&self, priority: Priority, _now: Instant) -> bool {
///         priority == Priority::CriticalPlus || !self.0.load(Ordering::Relaxed)
///     }
/// }
/// ```
pub trait Gate: Send + Sync + 'static {
    /// What stands in the log as `which` for a call that it rejects.
    fn name(&self) -> &'static str;

    /// Whether a call of this priority is let in. It must not block, and is asked for every call.
    fn admits(&self, priority: Priority, now: Instant) -> bool;
}
