//! Measures cases: wall time in interleaved rounds, allocations, instructions.

use std::process::{Command, Stdio};

use super::{Case, alloc::Allocations, worker::Worker};

/// Calls before anything is counted: tables have grown and thread-locals exist by then.
const WARM_UP: u64 = 2_000;
/// Calls whose allocations are counted.
const COUNTED: u64 = 8_192;
/// How long one batch takes, about. Short: the machine's mood is then the same for all cases of a round.
const BATCH_NANOSECONDS: u64 = 3_000_000;

/// Calls before and while instructions are counted: few, since callgrind is slow and its count exact.
const INSTRUCTIONS_WARM_UP: u64 = 200;
const INSTRUCTIONS_COUNTED: u64 = 1_000;
/// So many times, of which the least counts: hash seeds, addresses and other threads add one or two percent.
const INSTRUCTIONS_RUNS: usize = 3;

/// Allocations and reallocations per call.
#[derive(Clone, Copy)]
pub(crate) struct HeapUse {
    pub(crate) new: f64,
    pub(crate) resized: f64,
}

/// Exact counts of one case, per call.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) heap: HeapUse,
    pub(crate) instructions: Option<f64>,
}

/// Counts what one case needs; instructions only where callgrind is there.
pub(crate) fn counts(case: &Case, with_instructions: bool) -> Result<Counts, String> {
    let mut worker = Worker::start(case)?;
    worker.time(WARM_UP)?;
    let Allocations { new, resized } = worker.allocations(COUNTED)?;
    let heap = HeapUse {
        new: new as f64 / COUNTED as f64,
        resized: resized as f64 / COUNTED as f64,
    };
    let instructions = match with_instructions {
        true => Some(least_instructions(case)?),
        false => None,
    };
    Ok(Counts { heap, instructions })
}

/// Whether valgrind can be run here.
pub(crate) fn valgrind_is_here() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

fn least_instructions(case: &Case) -> Result<f64, String> {
    let mut least = f64::INFINITY;
    for _ in 0..INSTRUCTIONS_RUNS {
        least = least.min(instructions(case)?);
    }
    Ok(least)
}

/// Instructions per call of the thread that serves, in user mode, by callgrind.
fn instructions(case: &Case) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*measured_frame*")
        .arg(program);
    let mut worker = Worker::start_as(&mut valgrind, case, Stdio::piped())?;
    worker.time(INSTRUCTIONS_WARM_UP)?;
    worker.instructions(INSTRUCTIONS_COUNTED)?;
    let report = worker.finish()?;
    let collected: f64 = report
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .ok_or_else(|| format!("{}: callgrind reported no count:\n{report}", case.name))?;
    Ok(collected / INSTRUCTIONS_COUNTED as f64)
}

/// Nanoseconds per call of every case in every round: `[case][round]`.
pub(crate) fn rounds(cases: &[&Case], rounds: usize) -> Result<Vec<Vec<f64>>, String> {
    let mut runners = Vec::new();
    for case in cases {
        let mut worker = Worker::start(case)?;
        worker.time(WARM_UP)?;
        let per_call = worker.time(WARM_UP)? / WARM_UP;
        runners.push((worker, (BATCH_NANOSECONDS / per_call.max(1)).max(1)));
    }
    let mut order: Vec<usize> = (0..cases.len()).collect();
    let mut measured = vec![Vec::with_capacity(rounds); cases.len()];
    for _ in 0..rounds {
        fastrand::shuffle(&mut order);
        for &at in &order {
            let (worker, calls) = &mut runners[at];
            let nanoseconds = worker.time(*calls)?;
            measured[at].push(nanoseconds as f64 / *calls as f64);
        }
    }
    Ok(measured)
}

/// The median; NaN of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
