//! Writing a line allocates nothing: alone in its file, since the allocator counts for the whole process.
#![cfg(feature = "access-log")]

use std::time::Duration;

use plimsoll::log::{JsonLayer, Writer};
use tracing_subscriber::layer::SubscriberExt;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn a_line_allocates_nothing_and_a_span_twice() {
    let writer = Writer::new(std::io::sink()).expect("a thread");
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
        for _ in 0..50 {
            (0..400).for_each(span);
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
