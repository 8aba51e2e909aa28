//! The global subscribers that the logging cases install: each writes JSON lines to the counting sink.
//! *Full* is each peer's default; *lean* leaves out the list of spans, which repeats the current one.

use std::time::Duration;

use plimsoll::log::{Overflow, Setup};

use crate::harness::sink::CountingSink;

/// Whether a line lists all spans it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spans {
    Full,
    Lean,
}

/// Ours, with a thread of its own that writes. Waits for room in the queue rather than drop a line, since
/// each line is checked for; at these rates there is always room.
pub(crate) fn plimsoll() {
    let log = Setup::new()
        .service("benches")
        .version("1f0c9a7")
        .deployment("bench")
        .to_writer(CountingSink)
        .overflow(Overflow::BlockFor(Duration::from_secs(5)))
        .init()
        .expect("the log starts");
    // It lasts as long as the process.
    std::mem::forget(log);
}

/// The JSON format of tracing-subscriber.
pub(crate) fn tracing_subscriber(spans: Spans) {
    tracing_subscriber::fmt()
        .json()
        .with_span_list(spans == Spans::Full)
        .with_writer(|| CountingSink)
        .init();
}

/// json-subscriber, which renders a span once and not for each line.
pub(crate) fn json_subscriber(spans: Spans) {
    json_subscriber::fmt()
        .with_span_list(spans == Spans::Full)
        .with_writer(|| CountingSink)
        .init();
}
