//! What the log bears: reentrant values, many short threads, names that are taken, floods of fields.

mod common;

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Body;
use common::{Script, get};
use http::{Request, Response};
use plimsoll::{
    context::RequestId,
    log::{JsonLayer, Writer},
    server::{
        access_log::{self, AccessLogLayer},
        request_id::RequestIdLayer,
    },
    task,
};
use serde_json::Value;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing_subscriber::layer::SubscriberExt as _;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::str::from_utf8(&bytes).expect("UTF-8");
        text.lines()
            .map(|line| {
                assert!(line.len() <= 16 * 1024, "{} bytes", line.len());
                serde_json::from_str(line).expect(line)
            })
            .collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> (Memory, Writer, tracing::Dispatch) {
    let memory = Memory::default();
    let writer = Writer::new(memory.clone()).expect("a thread");
    let layer = JsonLayer::new(writer.clone());
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(layer));
    (memory, writer, dispatch)
}

/// A value that does all that it should not while it is logged.
struct Busy;

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = tracing::info_span!("within", of = "debug");
        let _entered = span.enter();
        tracing::info!(target: "test", "nested");
        let added = access_log::field("busy", 1_u32);
        let task = task::spawn("busy", async {});
        task.abort();
        drop(task);
        write!(f, "{added} {}", RequestId::current().is_some())
    }
}

#[tokio::test]
async fn a_value_may_log_spawn_and_add_fields_while_it_is_logged() {
    let (memory, writer, dispatch) = log();
    let _listening = tracing::dispatcher::set_default(&dispatch);
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new().call_span())
        .service(service_fn(|_: Request<Body>| async {
            let span = tracing::info_span!("outer", busy = ?Busy);
            let _entered = span.enter();
            tracing::info!(target: "test", value = ?Busy, "outer");
            Ok::<_, Infallible>(Response::new(Script::of([])))
        }));
    drop(service.oneshot(get("/")).await.expect("infallible"));
    writer
        .flush(Duration::from_secs(60))
        .expect("memory takes all");
    let lines = memory.lines();
    let id = &lines[0]["request_id"];
    assert!(id.is_string());
    assert!(
        lines.iter().all(|line| &line["request_id"] == id),
        "{lines:#?}"
    );
    let outer = lines.iter().find(|line| line["message"] == "outer");
    assert_eq!(outer.expect("it was logged")["value"], "true true");
    let access = lines.iter().find(|line| line["event"] == "request");
    assert_eq!(access.expect("it was logged")["busy"], 1);
}

#[tokio::test]
async fn fields_with_taken_names_and_too_many_of_them_leave_the_line_whole() {
    let (memory, writer, dispatch) = log();
    let _listening = tracing::dispatcher::set_default(&dispatch);
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        for name in [
            "outcome",
            "request_id",
            "timestamp",
            "truncated",
            "fields.outcome",
            "fields",
            "",
            "\n\"}",
            "\u{202e}x",
        ] {
            access_log::field(name, "forged");
        }
        for number in 0..5_000 {
            let name: &'static str = format!("n{number}").leak();
            access_log::field(name, "x".repeat(5_000));
        }
        Ok::<_, Infallible>(Response::new(Script::of([]).telling_its_end()))
    }));
    drop(service.oneshot(get("/")).await.expect("infallible"));
    writer
        .flush(Duration::from_secs(60))
        .expect("memory takes all");
    let lines = memory.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "ok");
    assert_eq!(lines[0]["truncated"], true);
    assert_ne!(lines[0]["timestamp"], "forged");
    assert_ne!(lines[0]["request_id"], "forged");
    assert!(lines[0]["duration_ms"].is_number());
}

#[test]
fn ten_thousand_short_threads_leave_nothing_behind_and_lose_no_line() {
    const THREADS: usize = 10_000;
    let (memory, writer, dispatch) = log();
    for batch in 0..THREADS / 50 {
        std::thread::scope(|scope| {
            for thread in 0..50 {
                let dispatch = &dispatch;
                scope.spawn(move || {
                    tracing::dispatcher::with_default(dispatch, || {
                        assert_eq!(RequestId::current(), None);
                        tracing::info!(target: "test", number = batch * 50 + thread, "short");
                    });
                });
            }
        });
    }
    writer
        .flush(Duration::from_secs(60))
        .expect("memory takes all");
    let mut numbers: Vec<u64> = memory
        .lines()
        .iter()
        .filter_map(|line| line["number"].as_u64())
        .collect();
    numbers.sort_unstable();
    assert!(
        numbers.iter().copied().eq(0..THREADS as u64),
        "{}",
        numbers.len()
    );
    assert_eq!(writer.stats().dropped(), 0);
}
