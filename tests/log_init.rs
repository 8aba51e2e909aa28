//! The log of a whole program: alone in its file, since a program has only one.
#![cfg(feature = "access-log")]

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll::log::{self, Setup};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("nothing panics here")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs while it is logged.
struct Chatty {
    deeper: u32,
}

impl fmt::Debug for Chatty {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(deeper) = self.deeper.checked_sub(1) {
            tracing::info!(chatty = ?Chatty { deeper }, "inner");
        }
        write!(out, "chatty {}", self.deeper)
    }
}

#[test]
fn the_program_logs_all_it_has_to_say() {
    let memory = Memory::default();
    let log = Setup::new()
        .service("reception")
        .filter("info,quiet=off")
        .to_writer(memory.clone())
        .pretty_on_terminal()
        .init()
        .expect("the first log");
    let error = log::init().expect_err("there is one already");
    assert_eq!(
        error.to_string(),
        "the program has a subscriber or a logger already"
    );
    assert!(std::error::Error::source(&error).is_some());

    tracing::info!(chatty = ?Chatty { deeper: 2 }, "outer");
    let span = tracing::info_span!("span", chatty = ?Chatty { deeper: 1 });
    span.in_scope(|| tracing::info!("in a span"));
    tracing::info!(target: "quiet", "not said");
    tracing::debug!("not said");
    ::log::warn!(target: "foreign", "of the log crate");
    log.flush(LONG).expect("written");
    assert_eq!((log.stats().lines(), log.stats().dropped()), (6, 0));

    tracing::info!(chatty = ?Chatty { deeper: 9 }, "too deep");
    log::flush_all(LONG).expect("written");
    let stats = log.stats();
    assert_eq!((stats.lines(), stats.events.nested), (10, 1));

    let other = std::thread::spawn(|| tracing::info!("of another thread"));
    other.join().expect("no panic");
    // Lines of one thread stay in order.
    log.flush(LONG).expect("written");
    the_filter_can_be_changed(&log);
    drop(log);
    let text =
        String::from_utf8(memory.0.lock().expect("nothing panics here").clone()).expect("UTF-8");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let messages: Vec<_> = lines
        .iter()
        .map(|line| line["message"].as_str().expect("a message"))
        .collect();
    assert_eq!(
        messages[..6],
        [
            "inner",
            "inner",
            "outer",
            "inner",
            "in a span",
            "of the log crate"
        ]
    );
    assert_eq!(lines[2]["chatty"], "chatty 2");
    assert_eq!(lines[4]["chatty"], "chatty 1");
    assert_eq!(
        (&lines[5]["target"], &lines[5]["level"]),
        (&"foreign".into(), &"WARN".into())
    );
    assert_eq!(
        lines[5].as_object().expect("an object").len(),
        5,
        "{}",
        lines[5]
    );
    assert!(lines.iter().all(|line| line["service"] == "reception"));
    assert!(
        lines
            .iter()
            .any(|line| line["event"] == "log_dropped" && line["nested"] == 1)
    );
    let at = messages
        .iter()
        .position(|text| *text == "of another thread");
    assert_eq!(
        messages[at.expect("it was said")..],
        [
            "of another thread",
            "of the log crate, now",
            "said now",
            "said now",
            "loud"
        ]
    );
}

/// Each place in the code is asked anew, also one that was asked before.
fn the_filter_can_be_changed(log: &log::Log) {
    let both = || {
        tracing::debug!(target: "noisy", "said now");
        tracing::info!(target: "quiet", "said now");
    };
    both();
    assert!(log.filter().contains("quiet=off"), "{}", log.filter());
    let error = log
        .set_filter(Some("noisy=loud"))
        .expect_err("no such level");
    assert_eq!(
        error.to_string(),
        "filter cannot be understood: \"noisy=loud\""
    );
    both();
    log.set_filter(Some("warn,noisy=debug,quiet=info"))
        .expect("it can be understood");
    ::log::debug!(target: "noisy", "of the log crate, now");
    both();
    tracing::info!("not said");
    log.set_filter(Some("error")).expect("it can be understood");
    both();
    tracing::error!("loud");
}
