//! Sheds before the kernel kills.

use std::{
    fmt, fs, io,
    num::NonZeroU64,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::Gate;
use crate::{clock, context::Priority};

/// The resident set is read so often, by one of the calls.
const PERIOD: Duration = Duration::from_millis(100);
/// From here on the lowest priority is shed, and from there on the highest too.
const LOWEST: f64 = 0.85;
const HIGHEST: f64 = 0.95;
/// Version 1 of cgroups says "no limit" with a number about as large as fits.
const NO_LIMIT: u64 = 1 << 60;

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
        let limit = limit_of_cgroup().map_or_else(all_memory, Ok)?;
        Self::with_limit(limit)
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
            used: AtomicU64::new(resident_set()?),
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
        if is_ours && let Ok(used) = resident_set() {
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

fn resident_set() -> io::Result<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status")?, "VmRSS:")
}

fn all_memory() -> io::Result<NonZeroU64> {
    let bytes = kilobytes(&fs::read_to_string("/proc/meminfo")?, "MemTotal:")?;
    NonZeroU64::new(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The bytes in a line of `/proc` such as `VmRSS:  1234 kB`.
fn kilobytes(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: Option<u64> = number.and_then(|number| number.parse().ok());
    kilobytes
        .and_then(|kilobytes| kilobytes.checked_mul(1_024))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn limit_of_cgroup() -> Option<NonZeroU64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    files_of(&groups)
        .iter()
        .filter_map(|file| limit_in(&fs::read_to_string(file).ok()?))
        .min()
}

/// Where limits may stand for a process in these groups: of its own group and of those above it; within a container the
/// path may be that of the host, and then the root is the container's.
fn files_of(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (root, file) = match parts.next() {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(kinds) if kinds.split(',').any(|kind| kind == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(parts.next().unwrap_or_default());
        for group in path.ancestors().filter_map(Path::to_str) {
            files.push(format!("{root}/{}/{file}", group.trim_matches('/')));
        }
    }
    files
}

fn limit_in(text: &str) -> Option<NonZeroU64> {
    let limit: u64 = text.trim().parse().ok()?;
    NonZeroU64::new(limit).filter(|limit| limit.get() < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_files_of_both_versions() {
        assert_eq!(
            files_of("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup//memory.max",
            ]
        );
        assert_eq!(
            files_of("7:cpu,cpuacct:/x\n4:memory:/docker/1\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory//memory.limit_in_bytes",
            ]
        );
        assert!(files_of("").is_empty() && files_of("nonsense").is_empty());
    }

    #[test]
    fn reads_limits_and_sizes() {
        assert_eq!(limit_in("536870912\n"), NonZeroU64::new(536_870_912));
        for none in ["max\n", "9223372036854771712\n", "0", "", "-1"] {
            assert_eq!(limit_in(none), None, "{none}");
        }
        let status = "Name:\tx\nVmRSS:\t    1234 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:").ok(), Some(1_234 * 1_024));
        for wrong in [
            "",
            "VmRSS:",
            "VmRSS: much",
            "VmRSS: 18446744073709551615 kB",
        ] {
            assert!(kilobytes(wrong, "VmRSS:").is_err(), "{wrong}");
        }
    }

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
        // At all of it even the highest is shed.
        let narrow = MemoryGate::with_limit(used)
            .expect("a /proc")
            .between(0.1, 0.5);
        assert!(!narrow.admits(Priority::CriticalPlus, now));
        // Half of twice as much: the lowest only.
        let twice = NonZeroU64::new(used.get() * 2).expect("above 0");
        let middle = MemoryGate::with_limit(twice)
            .expect("a /proc")
            .between(0.2, 0.9);
        assert!(middle.admits(Priority::CriticalPlus, now));
        assert!(!middle.admits(Priority::Sheddable, now));
    }
}
