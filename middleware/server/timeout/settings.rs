use std::{
    fmt,
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::counts::Counts;
use crate::{caller::TrustedProxies, rejection::Reason};

/// Longer than this no timer runs: two thirds of what tokio's can, and as good as for ever.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// What the services and the calls of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) counts: Counts,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) total: Setting,
    pub(super) head: Setting,
    pub(super) idle: Setting,
    pub(super) pace: Option<Pace>,
    pub(super) trusted: Option<TrustedProxies>,
}

/// A limit that can be changed while calls run.
pub(super) struct Setting(AtomicU64);

impl Setting {
    const NONE: u64 = u64::MAX;

    fn of(limit: Option<Duration>) -> Self {
        let setting = Self(AtomicU64::new(Self::NONE));
        setting.set(limit);
        setting
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            Self::NONE => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    pub(super) fn set(&self, limit: Option<Duration>) {
        let nanos = limit.map_or(Self::NONE, |limit| {
            // Within what a timer can wait for, which 64 bits of nanoseconds hold.
            u64::try_from(limit.min(LONGEST).as_nanos()).unwrap_or(Self::NONE)
        });
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Clone for Setting {
    fn clone(&self) -> Self {
        Self::of(self.get())
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// How fast the body of a request must come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes_per_second: NonZeroU32,
    pub(super) grace: Duration,
    pub(super) of_grpc: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            total: Setting::of(None),
            head: Setting::of(Some(Duration::from_secs(60))),
            idle: Setting::of(None),
            pace: Some(Pace {
                bytes_per_second: NonZeroU32::new(500).expect("above 0"),
                grace: Duration::from_secs(20),
                of_grpc: false,
            }),
            trusted: None,
        }
    }
}

/// One of the limits of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The caller's.
    Deadline,
    Head,
    Body,
    Idle,
    Total,
}

impl Limit {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Deadline => Reason::Deadline,
            Self::Head | Self::Body | Self::Idle | Self::Total => Reason::Timeout,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Head => "head",
            Self::Body => "body",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

/// The instant so much later. A time that no timer can wait for is as long as one can.
pub(super) fn after(start: Instant, wait: Duration) -> Instant {
    start.checked_add(wait.min(LONGEST)).unwrap_or(start)
}
