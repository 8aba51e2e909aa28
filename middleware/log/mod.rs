//! The program's whole log: every event of `tracing` is one line of JSON, and whatever becomes of the log's sink, no call
//! waits for it or fails with it.
//!
//! ```
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let _log = plimsoll::log::init()?; // dropped at the end of `main`: the last lines are written
//!     tracing::info!(port = 3000, "listening");
//!     Ok(())
//! }
//! ```
//!
//! [`init`] and [`Setup`] do it all. For a subscriber of your own, [`JsonLayer`] is the formatter and [`Writer`] the
//! queue and thread behind it.

pub(crate) mod access;
mod callsite;
mod drain;
mod escape;
mod filter;
mod form;
mod gauges;
mod json;
mod line;
mod notice;
mod queue;
mod schema;
mod scratch;
mod setup;
mod sink;
mod span;
mod visit;
mod writer;

use std::time::Duration;

use filter::Filter;
pub(crate) use gauges::{DROPPED, WRITE_ERRORS};
pub use json::JsonLayer;
pub use schema::Schema;
pub use setup::{Setup, SetupError};
pub use writer::{Counts, DEFAULT_QUEUE_BYTES, FlushError, Overflow, Stats, Writer, flush_all};

/// How long the end of the log waits for its last lines. Less than the 10 s that supervisors commonly leave a program
/// to end, and enough for 8 MiB to any disk that works.
const DROP_FLUSH: Duration = Duration::from_secs(2);

/// Starts the program's log with all defaults: JSON lines to stdout, filtered by `RUST_LOG` or else `info`, with the
/// service's name from `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. [`Setup`] has the settings.
///
/// # Errors
///
/// [`SetupError`], which names the setting that is wrong.
pub fn init() -> Result<Log, SetupError> {
    Setup::new().init()
}

/// The program's log. Keep it until the end of `main`: dropping it writes the last lines, for which it waits at most 2 s.
///
/// Lines are still taken and written afterwards, but the end of the process does not wait for them.
#[derive(Debug)]
#[must_use = "the last lines are lost unless this is dropped at the end of `main`"]
pub struct Log {
    writer: Writer,
    filter: Filter,
}

impl Log {
    /// Waits until all lines so far are in the sink, at most `patience`.
    ///
    /// # Errors
    ///
    /// As [`Writer::flush`].
    pub fn flush(&self, patience: Duration) -> Result<(), FlushError> {
        self.writer.flush(patience)
    }

    /// What became of all lines so far.
    pub fn stats(&self) -> Stats {
        self.writer.stats()
    }

    /// Changes which events are written while the program runs: as [`Setup::filter`]; `None` is what the environment says.
    ///
    /// # Errors
    ///
    /// [`SetupError::Filter`], and nothing is changed.
    pub fn set_filter(&self, directives: Option<&str>) -> Result<(), SetupError> {
        self.filter
            .set(filter::targets(directives, setup::environment)?);
        Ok(())
    }

    /// Which events are written, as it can be [set](Self::set_filter) again.
    pub fn filter(&self) -> String {
        self.filter.to_string()
    }

    /// The writer behind the log, for whoever reports its numbers.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(_unheard) = self.writer.flush(DROP_FLUSH) {
            // swallow: plimsoll.log.dropped The place where this would be said is the one that does not work.
        }
    }
}

#[cfg(test)]
mod tests;
