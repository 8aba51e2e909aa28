//! The last calls that failed by the service's doing, for an operator who looks.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::{clock, log::access::AccessLine};

/// So many are kept.
const KEPT: usize = 64;
/// So many bytes of each text.
const MAX_TEXT: usize = 512;

/// The last 64 calls that failed by the service's doing, as their lines tell of them. Clones share them.
///
/// It takes from calls that failed the time of one lock and a few short copies, and from others nothing.
///
/// ```
/// use plimsoll::server::access_log::{AccessLogLayer, Failures};
///
/// let failures = Failures::new();
/// let layer = AccessLogLayer::new().recent(&failures);
/// assert!(failures.last().is_empty());
/// # drop(layer);
/// ```
#[derive(Clone, Default)]
pub struct Failures {
    last: Arc<Mutex<VecDeque<Failure>>>,
}

/// A call that failed. Its texts are cut after 512 bytes, and without the values that its line is without.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// When it ended.
    pub at: SystemTime,
    /// Its id, if it has one.
    pub request_id: Option<String>,
    /// The method of HTTP.
    pub method: String,
    /// The route that matched, else the path.
    pub place: String,
    /// The status of HTTP, if there was a head.
    pub status: Option<u16>,
    /// The status of gRPC.
    pub grpc_status: Option<&'static str>,
    /// How it ended: the label of an [`Outcome`](crate::outcome::Outcome).
    pub outcome: &'static str,
    /// The whole chain of the error.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
}

impl Failures {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last ones, the newest first.
    pub fn last(&self) -> Vec<Failure> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().rev().cloned().collect()
    }

    pub(super) fn note(&self, line: &AccessLine) {
        let route = line.route.as_ref().map(|route| route.as_str());
        let place = route.or_else(|| line.path()).unwrap_or_default();
        let failure = Failure {
            at: clock::wall_clock(),
            request_id: line.request_id.as_ref().map(|id| id.as_str().to_owned()),
            method: cut(line.method.as_str()),
            place: cut(place),
            status: line.status,
            grpc_status: line.grpc_status,
            outcome: line.outcome,
            error: line.error.as_deref().map(cut),
            duration_ms: line.duration_ms,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (last.len() >= KEPT).then(|| last.pop_front());
        last.push_back(failure);
        drop(last);
        // Its texts are given back outside of the lock.
        drop(oldest);
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let head = (0..=MAX_TEXT).rev().find_map(|end| text.get(..end));
    format!("{}\u{2026}", head.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_and_their_texts_are_short() {
        let failures = Failures::new();
        for number in 0..1_000_u32 {
            failures.note(&AccessLine {
                error: Some(format!("{number} {}", "\u{e9}".repeat(10_000))),
                duration_ms: f64::from(number),
                ..AccessLine::default()
            });
        }
        let last = failures.last();
        assert_eq!(last.len(), KEPT);
        assert_eq!(last.first().map(|failure| failure.duration_ms), Some(999.0));
        for failure in last {
            let error = failure.error.expect("it has one");
            assert!(error.len() <= MAX_TEXT + '\u{2026}'.len_utf8(), "{error}");
        }
    }
}
