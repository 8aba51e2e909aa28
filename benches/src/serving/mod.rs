//! Our serve loop against `axum::serve` and tonic's: requests a second, latency, CPU time, instructions; and what it
//! holds against peers that rest, stall and flood.
//!
//! Two servers run on one core, in processes of their own, the client on another. The client calls them in turn, for a
//! tenth of a second each, in the order ABBA: whatever else the machine does hits both alike. A row is the median of the
//! pairs. *Idle* is one call at a time, *busy* more than a core can do.

mod attacks;
mod client;
mod servers;

use std::{
    fs, io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) use self::{
    attacks::{ATTACKER, CALLER, attack, attacks, call},
    servers::{SERVER, serve},
};
use self::{
    client::{BEGIN, Load, Peer, Protocol, get},
    servers::{Loop, Running},
};
use crate::harness::{
    loopback::{CLIENT_CORE, SERVER_CORE, cpu_seconds, pinned},
    measure::median,
    table::number,
};

/// The word that makes this program a client of two servers.
pub(crate) const CLIENT: &str = "serve-client";

const SLICE: Duration = Duration::from_millis(100);
const PAIRS: usize = 90;
const INSTRUCTIONS_WARM_UP: usize = 500;
const INSTRUCTIONS_COUNTED: usize = 2_000;
const IDLE_CONNECTIONS: usize = 1_000;

/// Who is compared with whom, speaking what.
const MATCHES: [(Protocol, Loop); 4] = [
    (Protocol::Http1, Loop::Axum),
    (Protocol::Http1, Loop::AxumPeers),
    (Protocol::Http2, Loop::Axum),
    (Protocol::Grpc, Loop::Tonic),
];

/// A tenth of a second of calls to one server.
struct Slice {
    calls: f64,
    per_second: f64,
    median: f64,
    p99: f64,
}

/// Prints how our loop compares.
pub(crate) fn compare() -> Result<(), String> {
    println!(
        "| | against | requests/s: ours | theirs | ratio | p50 µs: ours | theirs | p99 µs: ours | theirs | ratio | CPU µs/request: ours | theirs |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (protocol, theirs) in MATCHES {
        for busy in [false, true] {
            let what = if busy { "busy" } else { "idle" };
            eprintln!("{} {what}", protocol.name());
            let row = compare_one(protocol, theirs, what)?;
            println!(
                "| {}, {what} | {} | {row} |",
                protocol.name(),
                theirs.name()
            );
        }
    }
    Ok(())
}

fn compare_one(protocol: Protocol, theirs: Loop, what: &str) -> Result<String, String> {
    let servers = [
        Running::on_core(SERVER_CORE, Loop::Plimsoll)?,
        Running::on_core(SERVER_CORE, theirs)?,
    ];
    let cpu = || -> Result<Vec<f64>, String> {
        let of = servers.iter();
        of.map(|server| cpu_seconds(server.process.id())).collect()
    };
    let before = cpu()?;
    let mut order = vec![
        CLIENT.to_owned(),
        protocol.name().to_owned(),
        what.to_owned(),
    ];
    order.extend(servers.iter().map(|server| server.port.to_string()));
    let output = pinned(CLIENT_CORE)?
        .args(order)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let after = cpu()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let mut slices = [Vec::new(), Vec::new()];
    for line in told.lines() {
        let (at, slice) = read_slice(line).ok_or_else(|| format!("the client said {line}"))?;
        slices[at].push(slice);
    }
    let [ours, theirs] = &slices;
    if !output.status.success() || ours.len() != PAIRS || theirs.len() != PAIRS {
        return Err("the client failed".to_owned());
    }
    let of = |slices: &[Slice], value: fn(&Slice) -> f64| median(slices.iter().map(value));
    let ratio = |value: fn(&Slice) -> f64| {
        let pairs = ours.iter().zip(theirs);
        median(pairs.map(|(ours, theirs)| value(ours) / value(theirs)))
    };
    let cpu = |at: usize| {
        let calls: f64 = slices[at].iter().map(|slice| slice.calls).sum();
        (after[at] - before[at]) * 1e6 / calls
    };
    Ok(format!(
        "{} | {} | {:.3} | {:.1} | {:.1} | {:.1} | {:.1} | {:.3} | {:.2} | {:.2}",
        number(of(ours, |slice| slice.per_second).round()),
        number(of(theirs, |slice| slice.per_second).round()),
        ratio(|slice| slice.per_second),
        of(ours, |slice| slice.median),
        of(theirs, |slice| slice.median),
        of(ours, |slice| slice.p99),
        of(theirs, |slice| slice.p99),
        ratio(|slice| slice.p99),
        cpu(0),
        cpu(1),
    ))
}

fn read_slice(line: &str) -> Option<(usize, Slice)> {
    let numbers: Vec<f64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [at, calls, per_second, median, p99] = numbers[..] else {
        return None;
    };
    let slice = Slice {
        calls,
        per_second,
        median,
        p99,
    };
    Some((if at == 0.0 { 0 } else { 1 }, slice))
}

/// The client's process: calls both servers in turn, and tells of each slice.
pub(crate) fn drive(order: &[&str]) -> Result<(), String> {
    let [protocol, what, ours, theirs] = order else {
        return Err(format!("the client cannot do {order:?}"));
    };
    let protocol = Protocol::named(protocol)?;
    let load = match *what {
        "idle" => Load::IDLE,
        _ => Load::busy(protocol),
    };
    let connect = |port: &str| {
        let port = port.parse().map_err(io::Error::other)?;
        Peer::connect(protocol, load, port)
    };
    let failed = |error: io::Error| error.to_string();
    let mut peers = [
        connect(ours).map_err(failed)?,
        connect(theirs).map_err(failed)?,
    ];
    let mut took = Vec::new();
    for peer in &mut peers {
        // Before anything is measured: memory is there, and so are the branches.
        peer.drive(SLICE * 3, &mut took).map_err(failed)?;
    }
    for pair in 0..PAIRS {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            took.clear();
            let began = Instant::now();
            peers[at].drive(SLICE, &mut took).map_err(failed)?;
            let per_second = took.len() as f64 / began.elapsed().as_secs_f64();
            let (median, p99) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
            println!("{at} {} {per_second} {median} {p99}", took.len());
        }
    }
    Ok(())
}

/// In microseconds.
fn quantile(took: &mut [Duration], share: f64) -> f64 {
    if took.is_empty() {
        return f64::NAN;
    }
    let at = ((took.len() - 1) as f64 * share).round() as usize;
    let (_, value, _) = took.select_nth_unstable(at);
    value.as_secs_f64() * 1e6
}

/// Prints how many instructions a call takes each loop, in user mode, by callgrind.
pub(crate) fn instructions() -> Result<(), String> {
    println!("| | against | instructions: ours | theirs | ratio |");
    println!("|---|---|---:|---:|---:|");
    for (protocol, theirs) in MATCHES {
        eprintln!("{}", protocol.name());
        let [ours, others] = [Loop::Plimsoll, theirs].map(|which| per_call(which, protocol));
        let (ours, others) = (ours?, others?);
        println!(
            "| {} | {} | {} | {} | {:.3} |",
            protocol.name(),
            theirs.name(),
            number(ours.round()),
            number(others.round()),
            ours / others
        );
    }
    Ok(())
}

/// What more calls take more, so that the beginning and the end do not count.
fn per_call(which: Loop, protocol: Protocol) -> Result<f64, String> {
    let few = collected(which, protocol, INSTRUCTIONS_WARM_UP)?;
    let all = INSTRUCTIONS_WARM_UP + INSTRUCTIONS_COUNTED;
    let many = collected(which, protocol, all)?;
    Ok((many - few) / INSTRUCTIONS_COUNTED as f64)
}

fn collected(which: Loop, protocol: Protocol, calls: usize) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program);
    let mut server = Running::start(valgrind, which, Stdio::piped())?;
    let mut peer =
        Peer::connect(protocol, Load::IDLE, server.port).map_err(|error| error.to_string())?;
    peer.call(calls).map_err(|error| error.to_string())?;
    let mut stderr = server.process.stderr.take().expect("stderr is a pipe");
    drop(server);
    let report = io::read_to_string(&mut stderr).map_err(|error| error.to_string())?;
    report
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .ok_or_else(|| format!("callgrind reported no count:\n{report}"))
}

/// Prints what connections hold that rest: HTTP/2, each after one call.
pub(crate) fn idle() -> Result<(), String> {
    println!("| 1,000 idle connections of HTTP/2 | more memory, MiB |");
    println!("|---|---:|");
    for which in [Loop::Plimsoll, Loop::Axum, Loop::Tonic] {
        let server = Running::on_core(SERVER_CORE, which)?;
        let failed = |error: io::Error| error.to_string();
        let before = resident(server.process.id())?;
        let mut connections = Vec::with_capacity(IDLE_CONNECTIONS);
        for _ in 0..IDLE_CONNECTIONS {
            let mut peer =
                Peer::connect(Protocol::Http2, Load::IDLE, server.port).map_err(failed)?;
            peer.call(1).map_err(failed)?;
            connections.push(peer);
        }
        let more = resident(server.process.id())? - before;
        println!("| {} | {more:.1} |", which.name());
    }
    Ok(())
}

/// What a process holds, in MiB.
fn resident(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| format!("{path}: no VmRSS"))
}
