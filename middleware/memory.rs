//! The memory of this process, and how much it may use.

use std::{fs, io, num::NonZeroU64, path::Path};

/// Version 1 of cgroups says "no limit" with a number about as large as fits.
const NO_LIMIT: u64 = 1 << 60;

/// The limit of the cgroup, version 2 or 1, which is what the kernel kills by, else all of the machine's memory; in bytes.
///
/// # Errors
///
/// There is no `/proc` to read, as on systems other than Linux.
pub(crate) fn limit() -> io::Result<NonZeroU64> {
    limit_of_cgroup().map_or_else(all_memory, Ok)
}

/// What of this process is in memory, in bytes.
///
/// # Errors
///
/// As [`limit`].
pub(crate) fn resident_set() -> io::Result<u64> {
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
}
