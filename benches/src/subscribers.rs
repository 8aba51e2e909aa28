//! The global subscribers that the logging cases install: each writes JSON lines to the counting sink.
//! *Full* is each peer's default; *lean* leaves out the list of spans, which repeats the current one.

use crate::harness::sink::CountingSink;

/// Whether a line lists all spans it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spans {
    Full,
    Lean,
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
