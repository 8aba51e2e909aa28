//! The death of a background task is seen, whatever killed it.

mod common;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use common::{Bomb, Lines};
use plimsoll::task::{TaskEnd, deaths, spawn, supervise};

fn deaths_of(name: &str) -> u64 {
    let deaths = deaths();
    let found = deaths.iter().find(|(known, _)| *known == name);
    found.map_or(0, |(_, count)| *count)
}

/// Does as it is told when it is polled, and panics when it is dropped.
struct Armed {
    panics: bool,
    ends: bool,
    _bomb: Bomb,
}

impl Armed {
    fn new(panics: bool, ends: bool) -> Self {
        Self {
            panics,
            ends,
            _bomb: Bomb("in drop"),
        }
    }
}

impl Future for Armed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        assert!(!self.panics, "in poll");
        if self.ends {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

#[tokio::test]
async fn a_task_that_panics_is_told_and_counted() {
    let lines = Lines::listen();
    let end = spawn("panicking", async { panic!("oh") }).await;
    assert_eq!(end, Err::<(), _>(TaskEnd::Panicked));
    let line = lines.take_of("plimsoll::task").remove(0);
    assert_eq!(
        ["event", "task", "how", "panic", "level"].map(|name| line[name].as_str()),
        ["task_died", "panicking", "panicked", "oh", "ERROR"]
    );
    assert!(line["location"].contains("task.rs"), "{line:?}");
    assert_eq!(deaths_of("panicking"), 1);
}

#[tokio::test]
async fn a_task_whose_handle_is_dropped_runs_on_and_its_death_is_told() {
    let lines = Lines::listen();
    drop(spawn("forgotten", async {
        tokio::task::yield_now().await;
        panic!("oh");
    }));
    while deaths_of("forgotten") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lines.take_of("plimsoll::task").len(), 1);
}

#[tokio::test]
async fn a_panic_in_a_destructor_of_a_task_is_told_too() {
    let lines = Lines::listen();
    for (name, armed) in [
        ("ends_and_drops_badly", Armed::new(false, true)),
        ("panics_and_drops_badly", Armed::new(true, false)),
    ] {
        assert_eq!(spawn(name, armed).await, Err(TaskEnd::Panicked), "{name}");
        assert_eq!(deaths_of(name), 1, "{name}");
        assert_eq!(lines.take_of("plimsoll::task").len(), 1, "{name}");
    }
    let task = spawn("aborted_and_drops_badly", Armed::new(false, false));
    tokio::task::yield_now().await;
    task.abort();
    assert_eq!(task.await, Err(TaskEnd::Aborted));
    assert_eq!(deaths_of("aborted_and_drops_badly"), 1);
    assert_eq!(lines.take_of("plimsoll::task").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_supervised_task_comes_back_also_when_it_cannot_be_made() {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&starts);
    let task = supervise("unmakeable", move || {
        let start = counted.fetch_add(1, Ordering::Relaxed);
        assert_ne!(start, 1, "cannot be made");
        Armed::new(start == 2, true)
    });
    // Starts are due at 0, 100, 300, 700 and 1,500 ms; the clock is paused, so this takes no time.
    tokio::time::sleep(Duration::from_millis(1_550)).await;
    assert_eq!(starts.load(Ordering::Relaxed), 5);
    assert_eq!(deaths_of("unmakeable"), 5);
    task.abort();
    assert_eq!(task.await, Err(TaskEnd::Aborted));
}
