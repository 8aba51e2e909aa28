//! The plumbing of a limit, its files as they are, with shuttle's threads and locks in place of the real ones.
//!
//! Timers never fire here: a wake-up that is lost is a deadlock, which shuttle reports with its schedule.
//!
//! `cargo run --release --manifest-path tests/models/Cargo.toml`
#![allow(dead_code, reason = "the files have more than is modelled")]

mod clock {
    use std::time::Instant;

    /// Time stands: nothing depends on it.
    pub(crate) fn now() -> Instant {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *START
    }
}

mod context;
mod limit;

mod rejection {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Reason {
        Shed,
        QueueFull,
        QueueTimeout,
        Deadline,
    }
}

fn main() {
    limit::check();
}
