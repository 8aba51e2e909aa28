//! Writing a line allocates nothing: alone in its file, since the allocator counts for the whole process.
#![cfg(feature = "access-log")]

use std::{
    io::{self, Write},
    sync::{
        Mutex,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use plimsoll::log::{JsonLayer, Writer};
use tracing_subscriber::layer::SubscriberExt;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

static OPEN: Mutex<()> = Mutex::new(());

/// Takes all, but only while [`OPEN`] is not held, and tells when it is given something.
struct Door(Sender<()>);

impl Write for Door {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(()).expect("the test listens");
        drop(OPEN.lock().expect("no panic"));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_allocates_nothing_and_a_span_twice() {
    let (given, is_given) = channel();
    let writer = Writer::new(Door(given)).expect("a thread");
    let layer = JsonLayer::new(writer.clone()).service("reception");
    let line = |number: u64| {
        tracing::info!(number, half = 0.5, coffee = "cappuccino", cup = ?(1, "x"), hot = true, "order {number} taken");
    };
    let span = |number: u64| {
        let span = tracing::info_span!("order", number, table = "window");
        let _entered = span.enter();
        line(number);
    };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        // The queue's and the thread's memory grow to what they need, then they keep it.
        let flush = || writer.flush(Duration::from_secs(60)).expect("written");
        for _ in 0..10 {
            // All of them wait at once, as they may when the thread that writes is late, in each part of the memory: an odd
            // number of times is something taken out of it.
            for _ in 0..3 {
                let shut = OPEN.lock().expect("no panic");
                while is_given.try_recv().is_ok() {}
                span(0);
                is_given.recv().expect("the thread writes");
                (0..400).for_each(span);
                drop(shut);
                flush();
            }
            span(0);
            flush();
        }
        let _outer = tracing::info_span!("outer", table = "door").entered();
        for _ in 0..10 {
            assert_eq!(allocations(|| (0..200).for_each(line)), 0);
            flush();
        }
        span(0);
        assert!(allocations(|| span(1)) <= 2);
    });
}
