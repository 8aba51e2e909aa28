//! The log through its public API: what a line is, and what becomes of lines when the sink does not work.
#![cfg(feature = "access-log")]

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll::log::{FlushError, JsonLayer, Overflow, Schema, Setup, Writer};
use proptest::prelude::*;
use serde_json::Value;
use tracing::Dispatch;
use tracing::dispatcher::with_default;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Keeps what it is given, as the settings of `faults` allow.
#[derive(Clone, Default)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    /// What becomes of the next writes; then all is well.
    next: Vec<Fault>,
    /// Whether all writes fail, whatever `next` says.
    broken: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    Zero,
    Panic,
    Short(usize),
    Again,
}

impl Memory {
    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn text(&self) -> String {
        let bytes = self
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        String::from_utf8(bytes).expect("always UTF-8")
    }

    /// All lines, each checked to be what every line must be.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "a torn line: {text:?}"
        );
        text.lines().map(checked).collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if faults.broken {
                Some(Fault::Error)
            } else {
                faults.next.pop()
            }
        };
        let length = match fault {
            None => bytes.len(),
            Some(Fault::Short(length)) => length.clamp(1, bytes.len()),
            Some(Fault::Zero) => return Ok(0),
            Some(Fault::Error) => return Err(io::Error::other("the disk is full")),
            Some(Fault::Again) => return Err(io::ErrorKind::Interrupted.into()),
            Some(Fault::Panic) => std::panic::resume_unwind(Box::new("the sink panics")),
        };
        self.bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parses a line and checks what holds for every line: one object, no key twice, no byte that is not printed.
fn checked(line: &str) -> Value {
    assert!(line.len() < 16 * 1024, "{} bytes", line.len());
    let tame = |char: char| {
        !char.is_control()
            && !matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(line.chars().all(tame), "{line:?}");
    struct Object(HashMap<String, Value>);
    impl<'de> serde::Deserialize<'de> for Object {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Unique;
            impl<'de> serde::de::Visitor<'de> for Unique {
                type Value = Object;
                fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                    out.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Object, A::Error> {
                    let mut object = HashMap::new();
                    while let Some((key, value)) = map.next_entry::<String, Value>()? {
                        if let Some(earlier) = object.insert(key, value) {
                            return Err(serde::de::Error::custom(format!(
                                "a key twice, first {earlier}"
                            )));
                        }
                    }
                    Ok(Object(object))
                }
            }
            from.deserialize_map(Unique)
        }
    }
    let object: Object =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    object.0.into_iter().collect()
}

fn json(memory: &Memory) -> (Writer, Dispatch) {
    let writer = Writer::new(memory.clone()).expect("a thread");
    let subscriber = tracing_subscriber::registry().with(JsonLayer::new(writer.clone()));
    (writer, Dispatch::new(subscriber))
}

/// The lines that `work` logs.
fn logged(work: impl FnOnce()) -> Vec<Value> {
    let memory = Memory::default();
    let (writer, dispatch) = json(&memory);
    with_default(&dispatch, work);
    writer.flush(LONG).expect("written");
    memory.lines()
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\x00-\\x1f\\x7f\\x{80}-\\x{9f}\"\\\\\\x{2028}\\x{202e}{}:,a-z]{0,64}",
        (0_usize..70_000, any::<char>())
            .prop_map(|(length, char)| char.to_string().repeat(length / char.len_utf8())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn nothing_that_is_logged_can_forge_a_line(
        a in hostile(), b in hostile(), c in hostile(), number: i128, float: f64, bytes: Vec<u8>,
    ) {
        let lines = logged(|| {
            let outer = tracing::info_span!("outer", a = b, c, level = a, tab = tracing::field::Empty);
            let _outer = outer.enter();
            let inner = tracing::info_span!("inner\n", c = %b, "odd\"key\u{7f}" = 1);
            let _inner = inner.enter();
            outer.record("tab", c.as_str());
            tracing::info!(a, debug = ?b, display = %c, number, float, bytes = bytes.as_slice(), "{a}{b}");
            tracing::info!(timestamp = a, target = b, message = c, span = 1, truncated = 2, service = 3, level = 4);
        });
        prop_assert_eq!(lines.len(), 2);
        prop_assert_eq!(&lines[0]["level"], "INFO");
        if lines[0].get("truncated").is_none() {
            prop_assert_eq!(&lines[0]["a"], &a);
            prop_assert_eq!(&lines[0]["c"], &b);
            prop_assert_eq!(&lines[0]["tab"], &c);
            prop_assert_eq!(&lines[0]["message"], &format!("{a}{b}"));
            prop_assert_eq!(&lines[0]["number"], &number.to_string());
            prop_assert_eq!(&lines[0]["bytes"], &String::from_utf8_lossy(&bytes).into_owned());
        }
        prop_assert_eq!(&lines[1]["span"], "inner\n");
        prop_assert_eq!(&lines[1]["target"], "log");
    }

    #[test]
    fn whatever_the_sink_does_the_sums_are_exact(
        faults in prop::collection::vec(prop_oneof![
            Just(Fault::Error), Just(Fault::Zero), Just(Fault::Panic), Just(Fault::Again), (1_usize..200).prop_map(Fault::Short),
        ], 0..40),
        rounds in 1_usize..12,
    ) {
        let memory = Memory::default();
        memory.faults(|all| all.next = faults);
        let (writer, dispatch) = json(&memory);
        let mut produced = 0;
        with_default(&dispatch, || {
            for round in 0..rounds {
                for number in 0..5 {
                    produced += 1;
                    tracing::info!(round, number);
                }
                // Failing is what the sink does here.
                drop(writer.flush(LONG));
            }
        });
        memory.faults(|all| all.next.clear());
        let text = {
            drop(writer.flush(LONG));
            writer.flush(LONG).expect("works again");
            memory.text()
        };
        let stats = writer.stats();
        prop_assert_eq!(stats.lines() + stats.dropped(), produced);
        prop_assert_eq!(stats.queued(), 0);
        let whole = text.lines().filter(|line| line.ends_with('}') && line.contains("\"round\"")).count() as u64;
        prop_assert_eq!(whole, stats.lines());
    }
}

#[test]
fn fields_of_spans_are_on_the_line_and_the_innermost_wins() {
    let lines = logged(|| {
        let outer = tracing::info_span!(
            "outer",
            user = "outer",
            only_outer = 1,
            late = tracing::field::Empty
        );
        let inner = tracing::info_span!(parent: &outer, "inner", user = "inner", late = 0);
        let _entered = inner.enter();
        tracing::info!("before");
        outer.record("only_outer", 2);
        inner.record("late", true);
        tracing::info!(user = "event", "after");
    });
    assert_eq!(lines[0]["user"], "inner");
    assert_eq!(lines[0]["only_outer"], 1);
    assert_eq!(lines[0]["late"], 0);
    assert_eq!(lines[0]["span"], "inner");
    assert_eq!(lines[1]["user"], "event");
    assert_eq!(lines[1]["only_outer"], 2);
    assert_eq!(lines[1]["late"], true);
}

#[test]
fn our_own_names_are_reserved() {
    let lines = logged(|| {
        let span = tracing::info_span!("s", message = "of the span", request_id = "forged");
        let _entered = span.enter();
        tracing::warn!(
            level = "evil",
            timestamp = 0,
            "fields.level" = "worse",
            a = 1,
            a = 2,
            "true message"
        );
    });
    let line = &lines[0];
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields.level"], "evil");
    assert_eq!(line["fields.fields.level"], "worse");
    assert_eq!(line["fields.timestamp"], 0);
    assert_eq!(line["message"], "true message");
    assert_eq!(line["fields.message"], "of the span");
    assert_eq!(line["fields.request_id"], "forged");
    assert_eq!((&line["a"], &line["fields.a"]), (&1.into(), &2.into()));
}

#[test]
fn a_value_that_panics_or_fails_spoils_only_itself() {
    struct Panics;
    impl fmt::Debug for Panics {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("half \" a")?;
            std::panic::resume_unwind(Box::new("no"))
        }
    }
    struct Fails;
    impl fmt::Debug for Fails {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("half")?;
            Err(fmt::Error)
        }
    }
    let lines = logged(|| {
        tracing::info!(panics = ?Panics, fails = ?Fails, whole = 1, "said");
        tracing::info!("{:?}", Panics);
    });
    assert_eq!(lines[0]["panics"], "<panicked while it was formatted>");
    assert_eq!(lines[0]["fails"], "half<could not be formatted>");
    assert_eq!(lines[0]["whole"], 1);
    assert_eq!(lines[0]["message"], "said");
    assert_eq!(lines[1]["message"], "<panicked while it was formatted>");
}

#[test]
fn errors_show_their_whole_chain() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("no coffee")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = Outer(io::Error::other("no water"));
    let lines = logged(|| tracing::error!(error = &error as &(dyn std::error::Error + 'static)));
    assert_eq!(lines[0]["error"], "no coffee: no water");
}

#[test]
fn stacks_with_filters_and_other_layers() {
    let (memory, other, text) = (Memory::default(), Memory::default(), Memory::default());
    let writer = Writer::new(memory.clone()).expect("a thread");
    let otel = Writer::new(other.clone()).expect("a thread");
    let beside = Writer::new(text.clone()).expect("a thread");
    let subscriber = tracing_subscriber::registry()
        .with(EnvFilter::new("warn,mine=info"))
        .with(JsonLayer::new(writer.clone()))
        .with(JsonLayer::new(otel.clone()).schema(Schema::Otel))
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(beside.clone()),
        );
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!(target: "mine", "s", a = 1);
        let _entered = span.enter();
        span.record("a", 2);
        tracing::info!(target: "mine", "kept");
        tracing::info!(target: "others", "filtered");
    });
    for each in [&writer, &otel, &beside] {
        each.flush(LONG).expect("written");
        assert_eq!(each.stats().lines(), 1);
    }
    assert_eq!(
        (&memory.lines()[0]["message"], &memory.lines()[0]["a"]),
        (&"kept".into(), &2.into())
    );
    assert_eq!(
        (&other.lines()[0]["body"], &other.lines()[0]["a"]),
        (&"kept".into(), &2.into())
    );
    assert!(text.text().contains("kept"));
}

#[test]
fn lines_of_many_threads_are_whole_and_in_the_order_of_their_thread() {
    let memory = Memory::default();
    memory.faults(|faults| faults.next = (1..500).map(Fault::Short).collect());
    let (writer, dispatch) = json(&memory);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let dispatch = &dispatch;
            scope.spawn(move || {
                with_default(dispatch, || {
                    let span = tracing::info_span!("t", thread);
                    let _entered = span.enter();
                    for number in 0..1_000_u64 {
                        tracing::info!(number, own = thread, "line");
                    }
                });
            });
        }
    });
    writer.flush(LONG).expect("written");
    let mut next = [0; 8];
    for line in memory.lines() {
        let thread = line["thread"].as_u64().expect("a number");
        assert_eq!(line["own"], thread);
        let next = &mut next[thread as usize];
        assert_eq!(line["number"], *next);
        *next += 1;
    }
    assert_eq!(next, [1_000; 8]);
}

#[test]
fn what_a_broken_sink_lost_is_said_once_it_works() {
    let memory = Memory::default();
    memory.faults(|faults| faults.broken = true);
    let (writer, dispatch) = json(&memory);
    with_default(&dispatch, || {
        for number in 0..10_000 {
            tracing::info!(number);
        }
        tracing::info!(target: "plimsoll::access", event = "request");
    });
    let error = writer.flush(LONG).expect_err("the sink is broken");
    assert_eq!(error.to_string(), "the log could not be written");
    let FlushError::Failed { source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "the disk is full");
    let stats = writer.stats();
    assert_eq!(
        (stats.lines(), stats.dropped(), stats.queued()),
        (0, 10_001, 0)
    );
    assert_eq!(
        (stats.access.write_error, stats.events.write_error),
        (1, 10_000)
    );
    assert!(stats.write_errors >= 1);

    memory.faults(|faults| faults.broken = false);
    with_default(&dispatch, || tracing::info!("again"));
    writer.flush(LONG).expect("works again");
    let lines = memory.lines();
    let notices: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "log_dropped")
        .collect();
    assert_eq!(notices.len(), 1);
    let notice = notices[0];
    assert_eq!(notice["target"], "plimsoll::log");
    assert_eq!(notice["level"], "WARN");
    assert_eq!(notice["count"], 10_001);
    assert_eq!(
        (&notice["access"], &notice["events"]),
        (&1.into(), &10_000.into())
    );
    assert_eq!(notice["write_error"], 10_001);
    assert_eq!(notice["error"], "the disk is full");
    assert!(lines.iter().any(|line| line["message"] == "again"));
    assert_eq!(writer.stats().lines(), 1);
}

#[test]
fn a_panicking_sink_loses_only_what_it_was_given() {
    let memory = Memory::default();
    memory.faults(|faults| faults.next = vec![Fault::Panic]);
    let (writer, dispatch) = json(&memory);
    with_default(&dispatch, || {
        tracing::info!("lost");
        writer.flush(LONG).expect_err("panicked");
        tracing::info!("kept");
    });
    writer.flush(LONG).expect("written");
    let stats = writer.stats();
    assert_eq!((stats.events.sink_panic, stats.events.written), (1, 1));
    let lines = memory.lines();
    assert!(
        lines
            .iter()
            .any(|line| line["event"] == "log_dropped" && line["sink_panic"] == 1)
    );
}

/// Takes nothing until it is told to.
struct Gate {
    entered: Sender<()>,
    open: Receiver<()>,
    memory: Memory,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Once the test let go of its ends the gate is open.
        match self.entered.send(()).map(|()| self.open.recv()) {
            Ok(_) | Err(_) => self.memory.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated(
    max_bytes: usize,
    overflow: Overflow,
) -> (Writer, Dispatch, Memory, Receiver<()>, Sender<()>) {
    let memory = Memory::default();
    let (entered, has_entered) = channel();
    let (opener, open) = channel();
    let sink = Gate {
        entered,
        open,
        memory: memory.clone(),
    };
    let writer = Writer::with_queue(sink, max_bytes, overflow).expect("a thread");
    let subscriber = tracing_subscriber::registry().with(JsonLayer::new(writer.clone()));
    (
        writer,
        Dispatch::new(subscriber),
        memory,
        has_entered,
        opener,
    )
}

#[test]
fn a_sink_that_blocks_costs_lines_and_nobody_time() {
    let (writer, dispatch, memory, entered, open) = gated(10_000, Overflow::Drop);
    with_default(&dispatch, || {
        tracing::info!("first");
        entered.recv().expect("the thread writes");
        for number in 0..9_999 {
            tracing::info!(number);
        }
    });
    let error = writer.flush(Duration::from_millis(1)).expect_err("blocked");
    assert!(matches!(error, FlushError::TimedOut { .. }));
    assert_eq!(error.to_string(), "the log was not written within 1ms");
    let stats = writer.stats();
    assert_eq!(stats.lines(), 0);
    assert_eq!(stats.queued() + stats.dropped(), 10_000);
    assert_eq!(stats.dropped(), stats.events.queue_full);
    assert!(stats.queued() > 50, "{stats:?}");
    drop(open);
    writer.flush(LONG).expect("open again");
    let after = writer.stats();
    assert_eq!(
        (after.lines(), after.dropped()),
        (stats.queued(), stats.dropped())
    );
    let lines = memory.lines();
    let notices: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "log_dropped")
        .collect();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0]["count"], stats.dropped());
    assert_eq!(notices[0]["queue_full"], stats.dropped());
    assert_eq!(lines.len() as u64, after.lines() + 1);
}

#[test]
fn who_may_block_loses_nothing() {
    let (writer, dispatch, memory, entered, open) = gated(1_000, Overflow::BlockFor(LONG));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            with_default(&dispatch, || {
                for number in 0..500 {
                    tracing::info!(number);
                }
            });
        });
        entered.recv().expect("the thread writes");
        drop(open);
    });
    writer.flush(LONG).expect("written");
    assert_eq!(writer.stats().dropped(), 0);
    assert_eq!(memory.lines().len(), 500);
}

#[test]
fn a_closed_pipe_is_a_write_error() {
    let (reader, pipe) = io::pipe().expect("a pipe");
    drop(reader);
    let writer = Writer::new(pipe).expect("a thread");
    let subscriber = tracing_subscriber::registry().with(JsonLayer::new(writer.clone()));
    tracing::subscriber::with_default(subscriber, || tracing::info!("into the void"));
    let FlushError::Failed { source } = writer.flush(LONG).expect_err("nobody reads") else {
        panic!("it failed at once");
    };
    assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(
        (writer.stats().lines(), writer.stats().events.write_error),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_in_real_time_although_tokios_clock_stands_still() {
    let (writer, dispatch, _memory, entered, open) = gated(10_000, Overflow::Drop);
    with_default(&dispatch, || tracing::info!("blocked"));
    entered.recv().expect("the thread writes");
    writer.flush(Duration::from_millis(5)).expect_err("blocked");
    drop(open);
    writer.flush(LONG).expect("open again");
}

#[test]
fn the_last_lines_are_written_after_the_last_writer_is_gone() {
    let (writer, dispatch, memory, entered, open) = gated(10_000, Overflow::Drop);
    with_default(&dispatch, || tracing::info!("last"));
    drop((writer, dispatch));
    entered.recv().expect("the thread writes");
    drop(open);
    // The thread drops its end of the channel when it ends.
    while entered.recv().is_ok() {}
    assert_eq!(memory.lines()[0]["message"], "last");
}

#[test]
fn wrong_settings_are_errors_that_name_them() {
    let error = Writer::with_queue(io::sink(), 0, Overflow::Drop).expect_err("no room");
    assert!(error.to_string().starts_with("max_queue_bytes"));
    let error = Setup::new()
        .to_file("/no/such/folder/file")
        .init()
        .expect_err("no folder");
    assert!(error.to_string().contains("/no/such/folder/file"));
    let error = Setup::new()
        .filter("info,x=loud")
        .init()
        .expect_err("no such level");
    assert!(error.to_string().starts_with("filter"));
}
