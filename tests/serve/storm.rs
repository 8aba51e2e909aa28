//! The end of a server under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use crate::{
    callers::{PROTOCOLS, Protocol, Served, Transport, serve},
    common::Dice,
    support::{BOUND, Doors, app, ends_within, eventually, server},
};

/// For calls to end by themselves.
const DEADLINE: Duration = Duration::from_millis(150);
/// For those that were cut off to be told so. Where a machine takes longer they are dropped untold.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What handlers and callers saw of one run.
#[derive(Default)]
struct Seen {
    begun: AtomicU64,
    finished: AtomicU64,
    complete: AtomicU64,
    refused: AtomicU64,
    /// Calls whose connection ended before anything of an answer came.
    unanswered: AtomicU64,
    stop: AtomicBool,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn slow(seen: &Arc<Seen>, seed: u64) -> Router {
    let seen = Arc::clone(seen);
    let dice = Arc::new(std::sync::Mutex::new(Dice(seed)));
    let handler = async move || {
        add(&seen.begun);
        let millis = dice.lock().expect("no panic").roll(250);
        // sleeps: what the handler does here is to take a while
        tokio::time::sleep(Duration::from_millis(millis)).await;
        add(&seen.finished);
        "done"
    };
    Router::new().route("/slow", get(handler))
}

/// Calls until it is not served any more.
async fn keep_calling(served: &Served, protocol: Protocol, seen: &Seen) {
    let mut caller = served.caller(protocol).await;
    while !seen.stop.load(Ordering::Relaxed) && caller.ready().await.is_ok() {
        // Hyper's client of HTTP/2 may forget a call that is begun while its connection ends.
        let asked = timeout(BOUND / 6, caller.call("/slow")).await;
        assert!(asked.is_ok() || served.ended.is_finished(), "no answer");
        let Ok(Ok(answer)) = asked else {
            add(&seen.unanswered);
            return;
        };
        if answer.headers().contains_key("plimsoll-reason") {
            assert_eq!(answer.headers()["plimsoll-reason"], "drained");
            add(&seen.refused);
            continue;
        }
        let Ok(body) = answer.into_body().collect().await else {
            // There was no time left for it.
            return;
        };
        assert_eq!(body.to_bytes(), "done");
        add(&seen.complete);
    }
}

/// Whether there was time enough to tell everybody, and the server ended within a second of its deadline.
async fn run_once(run: u64) -> bool {
    let seen = Arc::new(Seen::default());
    let router = slow(&seen, run + 1).merge(app(&Doors::default()));
    // The limits are far off: it is the end that ends them.
    let server = server(router).drain(ends_within(DEADLINE));
    let served = serve(server, Transport::Tcp).await;

    let mut half = served.connect(Protocol::Http1).await;
    half.write_all(b"GET /ok HTTP/1.1\r\n").await.expect("sent");
    let mut endless = Vec::new();
    for protocol in PROTOCOLS {
        let mut caller = served.caller(protocol).await;
        let answer = caller.call("/endless").await.expect("a head");
        endless.push((caller, answer));
    }
    let callers = PROTOCOLS.iter().cycle().take(24);
    let calling = join_all(callers.map(|protocol| keep_calling(&served, *protocol, &seen)));
    let ending = async {
        eventually(|| seen.finished.load(Ordering::Relaxed) > 20).await;
        let began = Instant::now();
        served.control.drain();
        eventually(|| served.ended.is_finished()).await;
        seen.stop.store(true, Ordering::Relaxed);
        (began, began.elapsed())
    };
    let calling = async {
        calling.await;
        Instant::now()
    };
    let (told, (began, took)) = tokio::join!(calling, ending);
    assert!(took < BOUND / 2, "run {run}: {took:?}");
    let connections = served.connections.clone();
    let report = served.end().await;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let cut_in_handlers = count(&seen.begun) - count(&seen.finished);
    let endless = 3;
    // Some may be cut off before their handlers have begun.
    assert!(report.cut >= cut_in_handlers + endless, "run {run}");
    let is_in_time =
        told < began + DEADLINE + LAST_WORDS && took < DEADLINE + Duration::from_secs(1);
    if is_in_time {
        // Whatever a handler has answered its caller has got; whoever was cut off before was told. All of them are reported.
        assert_eq!(count(&seen.complete), count(&seen.finished), "run {run}");
        assert_eq!(report.cut, count(&seen.refused) + endless, "run {run}");
    }
    assert_eq!(
        (connections.open(), connections.calls()),
        (0, 0),
        "run {run}"
    );
    is_in_time
}

/// 4 runs in time, 100 with `PLIMSOLL_LONG=1`: half a head and endless answers are open, and 24 callers go on to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_or_is_reported_and_the_end_is_in_time() {
    let long = std::env::var("PLIMSOLL_LONG").is_ok_and(|long| long == "1");
    let mut left = if long { 100 } else { 4 };
    for run in 0..left * 8 {
        left -= u64::from(run_once(run).await);
        if left == 0 {
            return;
        }
    }
    panic!("{left} runs were not in time");
}
