//! What becomes of lines when the sink is slow, broken or gone.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use plimsoll::log::{FlushError, JsonLayer, Overflow, Setup, Writer};
use proptest::prelude::*;
use tracing::Dispatch;
use tracing::dispatcher::with_default;
use tracing_subscriber::layer::SubscriberExt;

use super::{Fault, LONG, Memory, json};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

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
