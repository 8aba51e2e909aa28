//! Where every case's log lines go: nowhere, but counted.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

static LINES: AtomicU64 = AtomicU64::new(0);

/// Takes log lines and keeps only their number. Nobody pays for a `write(2)` here.
#[derive(Clone, Copy)]
pub(crate) struct CountingSink;

impl io::Write for CountingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lines = memchr::memchr_iter(b'\n', bytes).count() as u64;
        LINES.fetch_add(lines, Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many lines were written so far.
pub(crate) fn lines() -> u64 {
    LINES.load(Relaxed)
}

/// Waits until exactly `expected` lines have come, which a writer with a thread of its own may
/// deliver late.
pub(crate) fn settle(expected: u64) -> Result<(), String> {
    let give_up = Instant::now() + Duration::from_secs(20);
    while lines() < expected && Instant::now() < give_up {
        std::thread::sleep(Duration::from_micros(100));
    }
    match lines() {
        written if written == expected => Ok(()),
        written => Err(format!("{written} log lines instead of {expected}")),
    }
}
