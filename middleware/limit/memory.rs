//! Sheds before the kernel kills.

use std::{
    fmt, io,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::Gate;
use crate::{clock, context::Priority, memory};

/// The resident set is read so often, by one of the calls.
const PERIOD: Duration = Duration::from_millis(100);
/// From here on the lowest priority is shed, and from there on the highest too.
const LOWEST: f64 = 0.85;
const HIGHEST: f64 = 0.95;

/// Rejects calls while the process uses more memory than is good for it: the lowest priority from 85 % of the limit
/// on, the highest from 95 % on, the others between.
///
/// The limit is that of the cgroup, version 2 or 1, which is what the kernel kills by, else all of the machine's memory;
/// what is used is the resident set of the process. It is read every 100 ms on the way of a call, which costs that call
/// some 20 us.
///
/// ```
/// use plimsoll::{limit::{Limit, MemoryGate}, server::load_shed::LoadShedLayer};
///
/// let mut layer = LoadShedLayer::new(Limit::adaptive());
/// match MemoryGate::new() {
///     Ok(gate) => layer = layer.gate(gate),
///     Err(error) => eprintln!("memory is not watched: {error}"),
/// }
/// ```
pub struct MemoryGate {
    limit: NonZeroU64,
    lowest: f64,
    highest: f64,
    started: Instant,
    /// When it is read next, in milliseconds since the start.
    due: AtomicU64,
    used: AtomicU64,
}

impl MemoryGate {
    /// Watches the memory of this process.
    ///
    /// # Errors
    ///
    /// There is no `/proc` to read, as on systems other than Linux.
    pub fn new() -> io::Result<Self> {
        Self::with_limit(memory::limit()?)
    }

    /// Watches it against a limit of your own, in bytes.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_limit(limit: NonZeroU64) -> io::Result<Self> {
        Ok(Self {
            limit,
            lowest: LOWEST,
            highest: HIGHEST,
            started: clock::now(),
            due: AtomicU64::new(0),
            used: AtomicU64::new(memory::resident_set()?),
        })
    }

    /// From which share of the limit on the lowest and the highest priority are shed. Default: 0.85 and 0.95.
    #[must_use]
    pub fn between(self, lowest: f64, highest: f64) -> Self {
        Self {
            lowest: lowest.min(highest),
            highest: highest.max(lowest),
            ..self
        }
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.get()
    }

    /// The resident set as it was read last, in bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Reads the resident set if it is time to.
    #[inline]
    fn read(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let due = self.due.load(Ordering::Relaxed);
        let next = since.saturating_add(u64::try_from(PERIOD.as_millis()).unwrap_or(u64::MAX));
        let is_ours = since >= due
            && self
                .due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        // What cannot be read now could be read at the start: it stays as it was.
        if is_ours && let Ok(used) = memory::resident_set() {
            self.used.store(used, Ordering::Relaxed);
        }
    }
}

impl Gate for MemoryGate {
    fn name(&self) -> &'static str {
        "memory"
    }

    #[inline]
    fn admits(&self, priority: Priority, now: Instant) -> bool {
        self.read(now);
        let used = self.used() as f64 / self.limit.get() as f64;
        used < threshold(priority, self.lowest, self.highest)
    }
}

impl fmt::Debug for MemoryGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGate")
            .field("limit", &self.limit)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

/// The share of memory from which a priority is shed.
fn threshold(priority: Priority, lowest: f64, highest: f64) -> f64 {
    let last = Priority::ALL.len().saturating_sub(1);
    let step = (highest - lowest) / last as f64;
    highest - step * priority.rank() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_priority_goes_first() {
        let thresholds = Priority::ALL.map(|priority| threshold(priority, 0.8, 1.0));
        for (found, expected) in thresholds.into_iter().zip([1.0, 0.95, 0.9, 0.85, 0.8]) {
            assert!((found - expected).abs() < 1e-9, "{thresholds:?}");
        }
    }

    #[test]
    fn sheds_above_its_limit_only() {
        let now = clock::now();
        let far = NonZeroU64::new(1 << 50).expect("above 0");
        let wide = MemoryGate::with_limit(far).expect("a /proc");
        assert!(wide.used() > 0);
        assert!(wide.admits(Priority::Sheddable, now));
        let used = NonZeroU64::new(wide.used()).expect("above 0");
        // As it was found then: what other tests of the process use meanwhile does not count.
        let gate = |limit| {
            let gate = MemoryGate::with_limit(limit).expect("a /proc");
            gate.used.store(used.get(), Ordering::Relaxed);
            gate.due.store(u64::MAX, Ordering::Relaxed);
            gate
        };
        // At all of it even the highest is shed.
        let narrow = gate(used).between(0.1, 0.5);
        assert!(!narrow.admits(Priority::CriticalPlus, now));
        // Half of twice as much: the lowest only.
        let twice = NonZeroU64::new(used.get() * 2).expect("above 0");
        let middle = gate(twice).between(0.2, 0.9);
        assert!(middle.admits(Priority::CriticalPlus, now));
        assert!(!middle.admits(Priority::Sheddable, now));
    }
}
