//! Readiness that follows how full a limit is.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Health, Status};
use crate::{clock, limit::LimitHandle};

impl Health {
    /// While this limit has had no room for so long, the service is `unavailable`, and whoever balances load sends calls
    /// elsewhere. 5 s is a good time: longer than a burst.
    ///
    /// Off unless you say so. It helps where replicas are loaded unevenly; where all are full at once, all leave, and the
    /// last ones get the calls of the others. Room is looked for by each probe, so the time is as exact as probes are
    /// frequent. A limit that adapts or lets calls wait has room as long as one more could wait.
    #[must_use]
    pub fn saturation(self, limit: LimitHandle, full_for: Duration) -> Self {
        let since = Mutex::new(None);
        self.signal(limit.name(), move || {
            let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
            meaning(&mut since, limit.has_room(), full_for, clock::now())
        })
    }
}

/// What it means to find room, or none, after it was found full at a time.
fn meaning(
    since: &mut Option<Instant>,
    has_room: bool,
    full_for: Duration,
    now: Instant,
) -> Status {
    if has_room {
        *since = None;
        return Status::Ok;
    }
    let since = *since.get_or_insert(now);
    if now.saturating_duration_since(since) >= full_for {
        Status::Unavailable
    } else {
        Status::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_for_long_is_unavailable_until_there_is_room() {
        let (start, mut since) = (clock::now(), None);
        let mut at = |seconds: u64, has_room| {
            let now = start + Duration::from_secs(seconds);
            meaning(&mut since, has_room, Duration::from_secs(5), now)
        };
        use Status::{Ok, Unavailable};
        assert_eq!([at(0, false), at(4, false)], [Ok, Ok]);
        assert_eq!([at(5, false), at(60, false)], [Unavailable, Unavailable]);
        assert_eq!([at(61, true), at(62, false), at(66, false)], [Ok, Ok, Ok]);
        assert_eq!(at(67, false), Unavailable);
    }
}
