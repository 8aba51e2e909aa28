//! Admission control under loads of half to ten times what a server can do, next to its peers.
//!
//! ```sh
//! cargo run --release -p overload                              # a look: below five minutes
//! cargo run --release -p overload -- --seeds 3                 # medians of three looks: below a quarter of an hour
//! cargo run --release -p overload -- --full --results full.jsonl --plots docs    # hours; see --seconds and --seeds
//! cargo run --release -p overload -- --backend yield --variant no-limit,back_pressure --load 2,5
//! cargo run --release -p overload -- --full --seconds 10 --seeds 1 --plan        # says what it would run
//! ```
//!
//! | option | |
//! |---|---|
//! | `--full` | every load, variant and scenario: 30 s after 10 s, seeds 1 to 3 |
//! | `--backend` `--variant` `--scenario` `--load` | only these; several with commas between them |
//! | `--grpc` | every case over gRPC; otherwise a few are |
//! | `--seconds` | what is measured of a case; a third of it is the warm-up |
//! | `--seed`, `--seeds` | one seed by its value; or how many, from 1 |
//! | `--results` | a file that gets a line for each run; runs that it holds are not run again, but for void ones |
//! | `--plots` | a folder that gets the plots |
//! | `--report` | runs nothing: the figures and plots of what `--results` holds |
//! | `--plan` | lists the cases and how long they take; with `--results`, those that are left |
//!
//! **The server** is a process of its own for each run: plain `axum::serve`, or tonic's server, with one worker on one
//! core. Its backend has a capacity by construction: a semaphore of 16 places that are held for 40 ms on average
//! (exponential), 2.5 ms of the core in slices of 250 us or in one go, or 10 places that are held for 5 ms, each tenth
//! call for 200 ms. An answer is good if it is a 200 within 25 mean services (1 s, 250 ms), counted from the call's
//! intended start. What the capacity is in calls a second is told by the name of a load: 1 is all of it.
//!
//! **The generator** is an open loop on another core. All starts are drawn first, from a seed; a call starts when its
//! time has come, whatever became of those before. It goes out on one of 512 connections that are open already (over
//! gRPC on one of 512 places on eight connections); if all are taken it waits, and its clock runs. What could not be
//! sent within the deadline has failed. Calls offered are served in time, late, rejected or failed: the four add up, or
//! the run is void. So is one where more than one start in a hundred was over 5 ms late, or the generator took more than
//! 70 % of its core, or something else more than a tenth of the server's: use a quiet machine. Where it may, as root and
//! with `chrt`, the program has both come before whatever else runs, in the real-time class.
//!
//! **The variants.** tower's `ConcurrencyLimit` with `LoadShed` gets the limit of someone who knows the backend (24 for
//! the semaphore), four times that and a quarter of it. tower-resilience has its defaults, and tower's `LoadShed` in
//! front, since it waits otherwise. little-loadshedder has no defaults: it gets five mean services as its target, and
//! its example's weight of 0.01, and in full runs half a minute to find its limit. Ours are not tuned at all.
//!
//! **Figures.** The peak is the best goodput at 1.0 and 1.1 of no limit or of tower's tuned one. CPU per rejection is
//! what ten times the load takes more than about the capacity, by the number of rejections. Runs of three seeds are
//! told as medians. Nothing here is asserted: a table says what was met.

mod account;
mod case;
mod client;
mod figures;
mod generator;
mod machine;
mod options;
mod plan;
mod plots;
mod run;
mod schedule;
mod server;
mod table;

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use case::Case;
use machine::Core;
use options::Options;
use run::{Row, SERVER};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String]) -> Result<(), String> {
    // What the program says to itself.
    if let [word, case] = arguments
        && word == SERVER
    {
        let case: Case = serde_json::from_str(case).map_err(|error| error.to_string())?;
        return server::serve(&case);
    }
    let options = Options::parse(arguments)?;
    let mut rows = options.results.as_deref().map_or(Ok(Vec::new()), read)?;
    let mut cases = options.plan.cases();
    if cases.is_empty() {
        return Err("there is no such case; --plan lists what there is".to_owned());
    }
    let known = |case: &Case| {
        let mut runs = rows.iter().filter(|row: &&Row| row.case == *case);
        runs.any(|row| row.void().is_none())
    };
    let chosen = cases.clone();
    cases.retain(|case| !known(case));
    let total: Duration = cases.iter().map(plan::duration).sum();
    eprintln!(
        "{} runs to do, about {:.1} minutes",
        cases.len(),
        total.as_secs_f64() / 60.0
    );
    if options.only_plan {
        for case in &cases {
            println!("{case}");
        }
        return Ok(());
    }
    let failed = if options.only_report {
        Vec::new()
    } else {
        run_all(&cases, &options, &mut rows)?
    };

    // Of a file of results, only what was asked for.
    rows.retain(|row| chosen.contains(&row.case));
    println!("\n{}", figures::table(&rows));
    if !options.plan.full {
        println!(
            "Short runs: a look, not figures to quote. Peers that take long to find their limit have not."
        );
    }
    if let Some(folder) = &options.plots {
        plots::write(&rows, folder)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.join("\n"))
}

/// Runs the cases one after another; each row is printed and kept as soon as it is there. Returns what went wrong with
/// those that could not be run.
fn run_all(cases: &[Case], options: &Options, rows: &mut Vec<Row>) -> Result<Vec<String>, String> {
    let mut failed = Vec::new();
    if cases.is_empty() {
        return Ok(failed);
    }
    // Asked before this thread is pinned, and told to the servers.
    let cores = machine::cores()?;
    machine::pin(Core::Generator)?;
    let urgent = machine::hurry();
    if !urgent {
        eprintln!("not allowed to come before other programs: if any run, so will void runs");
    }
    println!("{}", table::HEAD);
    for case in cases {
        let row = match run::run(case, cores, urgent) {
            Ok(row) => row,
            Err(error) => {
                eprintln!("{case}: {error}");
                failed.push(format!("{case}: {error}"));
                continue;
            }
        };
        println!("{}", table::row(&row));
        io::stdout().flush().map_err(|error| error.to_string())?;
        if let Some(path) = &options.results {
            append(path, &row)?;
        }
        rows.push(row);
    }
    Ok(failed)
}

fn read(path: &Path) -> Result<Vec<Row>, String> {
    let complain = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(complain(&error)),
    };
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>()
        .map_err(|error| complain(&error))
}

fn append(path: &Path, row: &Row) -> Result<(), String> {
    let mut line = serde_json::to_string(row).map_err(|error| error.to_string())?;
    line.push('\n');
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}
