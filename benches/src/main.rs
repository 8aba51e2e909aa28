//! What each layer costs per call, next to its peers.
//!
//! ```sh
//! cargo run --release -p plimsoll-benches                      # the table of docs/performance.md
//! cargo run --release -p plimsoll-benches -- request_id event  # only cases whose name contains one of these
//! cargo run --release -p plimsoll-benches -- --rounds 500      # steadier; 200 by default
//! cargo run --release -p plimsoll-benches -- http              # real HTTP/1.1 over loopback
//! cargo run --release -p plimsoll-benches -- limits            # the slowest decisions of rate limits, and Redis: a minute
//! cargo run --release -p plimsoll-benches -- deadlines         # 100,000 calls that wait; takes 20 s
//! cargo run --release -p plimsoll-benches -- serve             # our serve loop against axum's and tonic's: two minutes
//! cargo run --release -p plimsoll-benches -- serve instructions  # the same by callgrind: a minute
//! cargo run --release -p plimsoll-benches -- serve idle        # what 1,000 connections hold that rest
//! cargo run --release -p plimsoll-benches -- serve attacks     # a good caller while others attack: a minute
//! cargo run --release -p plimsoll-benches -- guard             # our layers against ceilings.txt
//! cargo run --release -p plimsoll-benches -- guard --update    # writes ceilings.txt anew
//! ```
//!
//! **What is measured.** A *case* is a service to call and the *base* it is compared to, the same
//! service without the layer: `sf/bare`, a plain `service_fn`, or `ax/bare`, an axum `Router` of a few
//! routes with its state applied, as `axum::serve` does it. A call makes a request (GET, four headers
//! that share one buffer, a header map of the right size, as hyper makes it), waits until the service
//! is ready, calls it, and reads the response's body to its end; making the request is part of the
//! bases too. It runs on a tokio runtime of one thread. Each call must get the status expected, and
//! each call of a logging case must write exactly one line; a case that does not is an error, not a row.
//!
//! **How.** Each case runs in a process of its own, because subscribers and panic hooks are global.
//!
//! - *ns*: the parent has the cases run batches of about 3 ms, all of them once a round, in random order,
//!   for 200 rounds. *ns* is the median of the rounds. *Δ ns* and *ratio* compare the case with its base
//!   in the same round, and are medians of that: what else the machine does then hits both alike.
//!   Compare these, not *ns*, between machines and days.
//! - *allocs*: what all threads ask of the heap, counted exactly over 8,192 calls after 2,000 others.
//!   "re" are reallocations.
//! - *instructions*: by callgrind, 1,000 calls after 200, of the thread that serves, in user mode: what the
//!   kernel does for it is not in them. The least of three runs, which differ by a percent or two.
//!
//! **What to know when reading.** Log lines go to a sink that only counts them: nobody pays for a
//! `write(2)`. Peers format and write a line on the thread that serves; plimsoll's writer has a thread of
//! its own, whose time is in *ns* only where the server waits for it, and in the CPU time of the `http`
//! table. One build has one set of features, so that the peers get `uuid` with `fast-rng`, as plimsoll does.
//!
//! **HTTP.** `-- http` serves a bare Router, our stack and the peers' on one pinned core, in turn, to a
//! client on another: 32 connections kept alive, one request under way on each. Requests a second
//! compare with the bare Router in the same round; CPU time is that of all threads of the server.
//! Both suffer from anything else that runs on the two cores: use a quiet machine.
//!
//! **The guard** measures allocations and instructions of our cases only and fails if one exceeds its
//! ceiling, or if cases and ceilings do not match. Wall time is never asserted.

mod access_log;
mod admission;
mod bases;
mod body_limit;
mod catch_panic;
mod deadlines;
mod event;
mod harness;
mod limits;
mod metrics;
mod rate_limit;
mod request_id;
mod serving;
mod stack;
mod subscribers;
#[cfg(not(feature = "telemetry"))]
#[path = "no_telemetry.rs"]
mod telemetry;
#[cfg(feature = "telemetry")]
mod telemetry;
mod timeout;
mod trace_context;

use std::{env, process::ExitCode};

use harness::{
    Case, guard,
    loopback::{self, CLIENT, SERVER},
    table,
    worker::{self, WORKER},
};

const DEFAULT_ROUNDS: usize = 200;

/// All cases, in the order of the table.
fn cases() -> Vec<&'static Case> {
    let tables = [
        bases::CASES,
        request_id::CASES,
        access_log::CASES,
        catch_panic::CASES,
        metrics::CASES,
        trace_context::CASES,
        rate_limit::CASES,
        admission::CASES,
        timeout::CASES,
        body_limit::CASES,
        stack::CASES,
        event::CASES,
    ];
    tables.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["guard"] => guard::run(&cases(), false),
        ["guard", "--update"] => guard::run(&cases(), true),
        ["http"] => loopback::print(stack::SERVERS),
        ["limits"] => limits::print(),
        ["serve"] => serving::compare(),
        ["serve", "instructions"] => serving::instructions(),
        ["serve", "idle"] => serving::idle(),
        ["serve", "attacks"] => serving::attacks(),
        ["deadlines"] => deadlines::print(),
        ["scrape"] => telemetry::scrape(),
        ["collector"] => telemetry::collector(60),
        ["collector", seconds] => {
            let seconds = seconds
                .parse()
                .map_err(|error| format!("{seconds}: {error}"))?;
            telemetry::collector(seconds)
        }
        // What the program says to itself.
        [telemetry::SERVER, collector] => telemetry::serve(collector),
        [WORKER, name] => {
            let all = cases();
            let case = all.iter().find(|case| case.name == name);
            let case = case.ok_or_else(|| format!("no case is called {name}"))?;
            worker::obey(case).map_err(|error| error.to_string())
        }
        [limits::REPLICA, port] => {
            let port = port.parse().map_err(|error| format!("{port}: {error}"))?;
            limits::replica(port)
        }
        [serving::SERVER, name] => serving::serve(name),
        [serving::CLIENT, ref order @ ..] => serving::drive(order),
        [serving::ATTACKER, name, port] => serving::attack(name, port),
        [serving::CALLER, port, seconds] => serving::call(port, seconds),
        [SERVER, name] => {
            let server = stack::SERVERS.iter().find(|server| server.name == name);
            let server = server.ok_or_else(|| format!("no server is called {name}"))?;
            loopback::serve(server).map_err(|error| error.to_string())
        }
        [CLIENT, port] => {
            let port = port.parse().map_err(|error| format!("{port}: {error}"))?;
            loopback::drive(port).map_err(|error| error.to_string())
        }
        _ => print_table(arguments),
    }
}

fn print_table(arguments: &[String]) -> Result<(), String> {
    let mut rounds = DEFAULT_ROUNDS;
    let mut wanted = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--rounds" => {
                let number = rest.next().and_then(|number| number.parse().ok());
                rounds = number
                    .filter(|number| *number > 0)
                    .ok_or("--rounds takes a number of at least 1")?;
            }
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            part => wanted.push(part.to_owned()),
        }
    }
    table::print(&cases(), &wanted, rounds)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::cases;

    #[test]
    fn names_differ_and_bases_exist() {
        let all = cases();
        let names: BTreeSet<&str> = all.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all.len());
        let mut bases = all.iter().filter_map(|case| case.base);
        assert!(bases.all(|base| names.contains(base)));
        assert!(names.iter().all(|name| !name.contains(char::is_whitespace)));
    }
}
