//! When to say that lines were lost: at once, then at most every [`INTERVAL`], and never twice the same loss.

use std::time::{Duration, Instant};

/// Between two notices. Long enough that an outage does not fill the log with notices of itself.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// What a line is about: the end of a call, or anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Access,
    Event,
}

/// Why a line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    QueueFull,
    WriteError,
    SinkPanic,
    Nested,
}

/// Lines of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) access: u64,
    pub(super) events: u64,
}

impl Tally {
    pub(super) fn count(&mut self, kind: Kind) {
        let count = match kind {
            Kind::Access => &mut self.access,
            Kind::Event => &mut self.events,
        };
        *count = count.saturating_add(1);
    }

    pub(super) fn add(&mut self, other: Self) {
        self.access = self.access.saturating_add(other.access);
        self.events = self.events.saturating_add(other.events);
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            access: self.access.saturating_sub(earlier.access),
            events: self.events.saturating_sub(earlier.events),
        }
    }

    pub(super) fn total(self) -> u64 {
        self.access.saturating_add(self.events)
    }
}

/// All that went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) queue_full: Tally,
    pub(super) write_error: Tally,
    pub(super) sink_panic: Tally,
    pub(super) nested: Tally,
    /// Writes and flushes that failed, however many lines they carried.
    pub(super) write_errors: u64,
}

impl Losses {
    pub(super) fn of(&mut self, reason: Reason) -> &mut Tally {
        match reason {
            Reason::QueueFull => &mut self.queue_full,
            Reason::WriteError => &mut self.write_error,
            Reason::SinkPanic => &mut self.sink_panic,
            Reason::Nested => &mut self.nested,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.queue_full.add(other.queue_full);
        self.write_error.add(other.write_error);
        self.sink_panic.add(other.sink_panic);
        self.nested.add(other.nested);
        self.write_errors = self.write_errors.saturating_add(other.write_errors);
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            queue_full: self.queue_full.since(earlier.queue_full),
            write_error: self.write_error.since(earlier.write_error),
            sink_panic: self.sink_panic.since(earlier.sink_panic),
            nested: self.nested.since(earlier.nested),
            write_errors: self.write_errors.saturating_sub(earlier.write_errors),
        }
    }

    /// Lines lost, for whatever reason.
    pub(super) fn lines(self) -> Tally {
        let mut lines = self.queue_full;
        lines.add(self.write_error);
        lines.add(self.sink_panic);
        lines.add(self.nested);
        lines
    }
}

/// What one notice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// What was lost since the last notice.
    pub(super) losses: Losses,
    /// How many times something was lost and not said at once.
    pub(super) suppressed: u64,
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub(super) struct Notices {
    seen: Losses,
    said: Losses,
    last: Option<Instant>,
    incidents: u64,
}

impl Notices {
    /// Takes all losses so far and tells what to say now. `last_chance`: what is not said now never will be.
    pub(super) fn due(
        &mut self,
        so_far: Losses,
        now: Instant,
        last_chance: bool,
    ) -> Option<Notice> {
        if so_far != self.seen {
            self.seen = so_far;
            self.incidents = self.incidents.saturating_add(1);
        }
        let waited = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        (self.unsaid() && (waited || last_chance)).then(|| Notice {
            losses: self.seen.since(self.said),
            suppressed: self.incidents.saturating_sub(1),
        })
    }

    /// The notice that was due is in the sink.
    pub(super) fn said(&mut self, now: Instant) {
        self.said = self.seen;
        self.last = Some(now);
        self.incidents = 0;
    }

    /// True if something is still to be said.
    pub(super) fn unsaid(&self) -> bool {
        self.seen != self.said
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lost(events: u64) -> Losses {
        Losses {
            queue_full: Tally { access: 0, events },
            ..Losses::default()
        }
    }

    #[test]
    fn speaks_at_once_and_then_every_ten_seconds() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut notices = Notices::default();
        assert_eq!(notices.due(lost(0), at(0), false), None);
        assert_eq!(
            notices.due(lost(3), at(1), false),
            Some(Notice {
                losses: lost(3),
                suppressed: 0
            })
        );
        notices.said(at(1));
        assert_eq!(notices.due(lost(3), at(2), false), None);
        assert_eq!(notices.due(lost(4), at(3), false), None);
        assert_eq!(notices.due(lost(9), at(9), false), None);
        assert!(notices.unsaid());
        assert_eq!(
            notices.due(lost(9), at(11), false),
            Some(Notice {
                losses: lost(6),
                suppressed: 1
            })
        );
        notices.said(at(11));
        assert!(!notices.unsaid());
        assert_eq!(
            notices.due(lost(10), at(12), true),
            Some(Notice {
                losses: lost(1),
                suppressed: 0
            })
        );
    }

    #[test]
    fn says_it_again_if_the_notice_itself_was_lost() {
        let now = crate::clock::now();
        let mut notices = Notices::default();
        assert!(notices.due(lost(3), now, false).is_some());
        assert_eq!(
            notices.due(lost(5), now, false),
            Some(Notice {
                losses: lost(5),
                suppressed: 1
            })
        );
    }

    proptest! {
        #[test]
        fn sums_are_exact(steps in prop::collection::vec((0_u64..5, 0_u64..8, any::<bool>()), 1..60)) {
            let mut now = crate::clock::now();
            let (mut notices, mut total, mut incidents) = (Notices::default(), 0, 0);
            let (mut counted, mut warned) = (0, 0);
            for (more, seconds, works) in steps {
                total += more;
                incidents += u64::from(more > 0);
                now += Duration::from_secs(seconds);
                if let Some(notice) = notices.due(lost(total), now, false).filter(|_| works) {
                    counted += notice.losses.lines().total();
                    warned += 1 + notice.suppressed;
                    notices.said(now);
                }
            }
            if let Some(notice) = notices.due(lost(total), now, true) {
                counted += notice.losses.lines().total();
                warned += 1 + notice.suppressed;
            }
            prop_assert_eq!((counted, warned), (total, incidents));
        }
    }
}
