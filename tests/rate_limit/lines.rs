//! What is logged, for each test apart: one subscriber for the process writes to the thread that a test runs on.
//!
//! A subscriber for each test would do, but for tracing's cache of who listens, which tests in parallel blur.

use std::{cell::RefCell, io, sync::Once};

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this thread has logged since.
pub(crate) struct Lines;

impl Lines {
    pub(crate) fn keep() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| OfThread)
                .init();
        });
        WRITTEN.take();
        Self
    }

    pub(crate) fn text(&self) -> String {
        WRITTEN.with_borrow(|bytes| String::from_utf8(bytes.clone()).expect("text"))
    }

    pub(crate) fn with(&self, part: &str) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(part));
        lines.map(str::to_owned).collect()
    }
}

struct OfThread;

impl io::Write for OfThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
