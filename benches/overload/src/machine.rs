//! Cores and processor time.

use std::{
    fs,
    process::{self, Command},
    time::Duration,
};

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The server's core is the first one that this program may use, the generator's the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    Server,
    Generator,
}

/// The environment variable that says which two cores to use. Servers are told by it: they inherit the generator's pin.
pub(crate) const CORES: &str = "OVERLOAD_CORES";

/// The numbers of the server's core and of the generator's.
pub(crate) fn cores() -> Result<[usize; 2], String> {
    if let Ok(cores) = std::env::var(CORES) {
        let mut numbers = cores.split(',').map(str::parse);
        return match (numbers.next(), numbers.next()) {
            (Some(Ok(server)), Some(Ok(generator))) => Ok([server, generator]),
            _ => Err(format!("{CORES} takes two numbers, such as 0,1")),
        };
    }
    let allowed = sched_getaffinity(None).map_err(|error| error.to_string())?;
    let mut allowed = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    match (allowed.next(), allowed.next_back()) {
        (Some(server), Some(generator)) => Ok([server, generator]),
        _ => Err("two cores are needed: one for the server, one for the generator".to_owned()),
    }
}

/// Has this thread, and those that it will start, run on one core only.
pub(crate) fn pin(core: Core) -> Result<(), String> {
    let [server, generator] = cores()?;
    let mut only = CpuSet::new();
    only.set(match core {
        Core::Server => server,
        Core::Generator => generator,
    });
    sched_setaffinity(None, &only).map_err(|error| format!("cannot pin: {error}"))
}

/// Has this thread, and those and the processes that it will start, come before whatever else runs on the machine: in the
/// real-time class, since niceness counts only among programs of one session. Whether that is allowed.
pub(crate) fn hurry() -> bool {
    let this = process::id().to_string();
    let chrt = Command::new("chrt")
        .args(["--rr", "--pid", "1", &this])
        .output();
    chrt.is_ok_and(|output| output.status.success())
}

/// User and system time of all threads of this process so far.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a core has done since the machine was started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    pub(crate) fn of(core: usize) -> Result<Self, String> {
        let stat =
            fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
        Self::parse(&stat, core).ok_or_else(|| format!("/proc/stat does not tell of core {core}"))
    }

    /// The first eight numbers are user, nice, system, idle, iowait, irq, softirq and steal.
    fn parse(stat: &str, core: usize) -> Option<Self> {
        let name = format!("cpu{core} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
        let numbers: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let all = numbers.iter().sum();
        let idle = numbers.get(3)? + numbers.get(4)?;
        Some(Self {
            busy: all - idle,
            all,
        })
    }

    /// Which share of the time since `before` the core was busy, with whatever it was.
    pub(crate) fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.busy.saturating_sub(before.busy) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_core_did_is_read_from_its_line() {
        let stat = "cpu  9 9 9 9 9 9 9 9\ncpu0 1 2 3 100 4 5 6 7 8 9\ncpu1 0 0 0 10 0 0 0 0\n";
        let before = Ticks::parse(stat, 0).unwrap();
        assert_eq!(before, Ticks { busy: 24, all: 128 });
        let after = Ticks { busy: 54, all: 168 };
        assert_eq!(after.busy_since(before), 0.75);
        assert_eq!(Ticks::parse(stat, 2), None);
    }

    #[test]
    fn this_test_has_taken_processor_time() {
        assert!(cpu_time() > Duration::ZERO);
    }
}
