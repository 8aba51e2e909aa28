use std::time::{Duration, Instant};

use http::HeaderName;

use super::frame;
use crate::clock;

/// The header in which an HTTP caller tells how much longer it waits: `x-request-deadline`, with a value as that of
/// `grpc-timeout` (`250m`). It is what is left and no time of day, since clocks differ.
pub const REQUEST_DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline");

/// When the current call is over: the caller waits no longer, or the server serves it no longer, whichever is first.
///
/// Written by `timeout`. Read by `back_pressure`, by handlers that would rather not begin what they cannot end, and by
/// `propagate`, which passes on what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The deadline of the call that this code runs in. `None` outside of a call, in a task of its own, and where
    /// nobody set one.
    pub fn current() -> Option<Self> {
        frame::current(|frame| frame.deadline()).flatten()
    }

    /// The time that is left, 0 when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(clock::now())
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}
