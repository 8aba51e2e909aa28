//! What a thread keeps from line to line, so that a line allocates nothing.

use std::cell::Cell;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::callsite::Callsites;
use super::escape;
use super::line::Line;
use super::span::SpanFields;

/// An event inside of an event inside of an event: one whose `Debug` logs. Deeper ones are counted as dropped.
const MAX_DEPTH: usize = 4;

/// What a thread keeps from line to line, so that a line allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) line: Line,
    pub(super) nested: Vec<u8>,
    pub(super) span: SpanFields,
    pub(super) stamp: Stamp,
    pub(super) callsites: Callsites,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl Scratch {
    /// Lends the thread's memory. A line that is written while another is finds none there and brings its own.
    pub(super) fn with(work: impl FnOnce(&mut Self)) {
        // A thread that is ending has no memory of its own left.
        let mut scratch = SCRATCH
            .try_with(Cell::take)
            .unwrap_or_default()
            .unwrap_or_default();
        work(&mut scratch);
        if let Err(_ending) = SCRATCH.try_with(|kept| kept.set(Some(scratch))) {
            // The memory is gone with the thread; the line is not.
        }
    }
}

/// How many lines this thread is writing inside of each other.
pub(super) struct Depth;

impl Depth {
    pub(super) fn enter() -> Option<Self> {
        let depth = DEPTH.get();
        DEPTH.set(depth.saturating_add(1));
        let deeper = Self;
        (depth < MAX_DEPTH).then_some(deeper)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

/// The time as text. The second's text is kept: only the microseconds change from line to line.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    pub(super) fn push(&mut self, out: &mut Vec<u8>, now: SystemTime) {
        // A clock that stands before 1970 shows 1970.
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            self.text.clear();
            let written = write!(self.text, "{}", time.strftime("%Y-%m-%dT%H:%M:%S."));
            written.expect("every time of this format can be written");
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(self.text.as_bytes());
        let micros = u64::from(since.subsec_micros());
        out.extend_from_slice(&[
            escape::digit(micros / 100_000),
            escape::digit(micros / 10_000 % 10),
            escape::digit(micros / 1_000 % 10),
            escape::digit(micros / 100 % 10),
            escape::digit(micros / 10 % 10),
            escape::digit(micros % 10),
            b'Z',
        ]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_is_rfc_3339_in_utc_with_microseconds() {
        let mut stamp = Stamp::default();
        let mut shown = |now| {
            let mut out = Vec::new();
            stamp.push(&mut out, now);
            String::from_utf8(out).expect("UTF-8")
        };
        let now = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        assert_eq!(shown(now), "2023-11-14T22:13:20.000042Z");
        assert_eq!(
            shown(now + Duration::from_millis(999)),
            "2023-11-14T22:13:20.999042Z"
        );
        assert_eq!(
            shown(now + Duration::from_secs(1)),
            "2023-11-14T22:13:21.000042Z"
        );
        assert_eq!(
            shown(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000000Z"
        );
    }
}
