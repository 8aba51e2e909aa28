//! The books of a whole server: 100,000 mixed calls over real sockets, each of which is one line of the log and one count,
//! with the outcome that it had.

#[path = "../common/mod.rs"]
mod common;

mod callers;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    panic,
    sync::{Arc, Mutex},
    time::Duration,
};

use plimsoll::{context::RequestId, log};
use server::{Scrape, Server};

/// How many calls are made at least.
const CALLS: u32 = 100_000;
/// A scrape while so many are made.
const BETWEEN_SCRAPES: u32 = 1_000;
/// Until all has come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls by protocol and outcome.
type Counts = BTreeMap<(String, String), u64>;

/// Where the log goes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut memory = self.0.lock().expect("nothing panics here");
        memory.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The access lines: calls by protocol and outcome, and the ids.
fn read(log: &Memory) -> (Counts, Vec<String>) {
    let bytes = std::mem::take(&mut *log.0.lock().expect("nothing panics here"));
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (mut counts, mut ids) = (Counts::new(), Vec::new());
    for line in text
        .lines()
        .filter(|line| line.contains(r#""event":"request""#))
    {
        let told = |name: &str| {
            let (_, rest) = line.split_once(&format!("\"{name}\":\"")).expect(name);
            rest.split('"').next().expect(name).to_owned()
        };
        *counts
            .entry((told("protocol"), told("outcome")))
            .or_default() += 1;
        ids.push(told("request_id"));
    }
    (counts, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_calls_are_in_the_books_once() {
    let memory = Memory::default();
    let log = log::Setup::new()
        .to_writer(memory.clone())
        .max_queue_bytes(256 << 20)
        .init()
        .expect("the only log");
    show_panics_of_the_test();
    let server = Server::start(log.writer()).await;
    let mut callers = callers::start(&server, CALLS.into()).await;
    while callers.have_made(BETWEEN_SCRAPES).await {
        let told = server.scrape().await;
        in_balance(&told);
        assert!(told.sum("plimsoll_requests_in_flight", "") >= 0);
    }
    let sent = callers.sent();
    let calls: u64 = sent.by_outcome.values().sum();
    assert!(calls >= CALLS.into(), "{calls}");

    let told = at_rest(&server, calls).await;
    log.flush(PATIENCE).expect("written");

    // L1: what began has ended, and nothing is in flight.
    in_balance(&told);
    let all = i64::try_from(calls).expect("small");
    assert_eq!(told.sum("plimsoll_requests_started_total", ""), all);
    assert_eq!(told.sum("plimsoll_requests_in_flight", ""), 0);
    assert_eq!(told.sum("http_server_active_requests", ""), 0);
    let durations = told.sum("http_server_request_duration_seconds_count", "")
        + told.sum("rpc_server_call_duration_seconds_count", "");
    assert_eq!(durations, all);

    // L2: a line for each call, with the outcome that is counted and that the call had.
    assert_eq!(told.requests(), sent.by_outcome);
    let (lines, ids) = read(&memory);
    assert_eq!(lines, sent.by_outcome);
    assert_eq!(told.sum("plimsoll_log_dropped_total", ""), 0);
    assert_eq!(ids.len(), sent.ids.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), sent.ids);

    // L3: what a layer saw is what it let pass and what it turned away.
    let outcomes = |wanted: &[&str]| -> u64 {
        let of = sent.by_outcome.iter();
        of.filter(|((_, outcome), _)| wanted.contains(&&**outcome))
            .map(|(_, calls)| calls)
            .sum()
    };
    let limited = server.limit.decisions();
    let (admitted, rejected) = (limited[0].admitted, limited[0].rejected);
    assert_eq!(rejected, outcomes(&["rate_limited"]));
    assert_eq!(admitted + rejected, sent.limited);
    assert!(admitted > 0 && rejected > 0, "{limited:?}");
    let panics = u64::try_from(told.sum("plimsoll_panics_total", "")).expect("it counts");
    assert_eq!(panics, outcomes(&["panic", "body_panic"]));
    assert_eq!(told.sum("plimsoll_tasks_died_total", ""), 0);
}

/// The log takes all panics; those of no call are for whoever runs the test.
fn show_panics_of_the_test() {
    let log = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if RequestId::current().is_none() {
            eprintln!("{panic}");
        }
        log(panic);
    }));
}

/// L1, as it holds in every scrape.
fn in_balance(told: &Scrape) {
    assert_eq!(
        told.sum("plimsoll_requests_started_total", ""),
        told.sum("plimsoll_requests_total", "") + told.sum("plimsoll_requests_in_flight", "")
    );
}

/// A scrape after the server has seen all callers go.
async fn at_rest(server: &Server, calls: u64) -> Scrape {
    let calls = i64::try_from(calls).expect("small");
    let rest = async {
        loop {
            let told = server.scrape().await;
            if told.sum("plimsoll_requests_total", "") >= calls {
                return told;
            }
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, rest).await;
    told.expect("all calls end once their callers have")
}
