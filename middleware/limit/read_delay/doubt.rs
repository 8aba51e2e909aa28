//! Whether a delay is due to the calls at all: what else keeps the workers, such as a task that computes in the
//! background, keeps them whatever is refused. Found out by refusing nobody for a moment. Pure, as the control is.

use std::time::{Duration, Instant};

/// Delay and share are means of about so long.
const SMOOTH: f64 = 1.0;
/// Refusing is in vain if nearly all are refused and the delay is this much longer than it should be, for so long.
const NEARLY: f64 = 0.85;
const LONG: f64 = 1.5;
const VAIN: Duration = Duration::from_secs(2);
/// Nobody is refused for so long at most. Calls that make the mean delay so much longer are the cause, and at once if
/// they make it that long.
const TRIAL: Duration = Duration::from_millis(250);
const LONGER: f64 = 1.5;
const MUCH_LONGER: f64 = 3.0;
/// For so long what was found out holds, each time twice as long.
const LEAST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(160);

/// See the module.
#[derive(Debug)]
pub(super) struct Doubt {
    stage: Stage,
    delay: f64,
    share: f64,
    /// What the delay was when nearly all were refused.
    refusing: f64,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The delay is believed, and all is refused in vain since then.
    Believed { vain: Option<Instant> },
    /// Nobody is refused. Sum and number of the delays.
    Trial {
        until: Instant,
        sum: f64,
        count: f64,
    },
    /// It was not the calls: nobody is refused.
    Idle { until: Instant },
    /// It was the calls.
    Proven { until: Instant },
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Believed { vain: None },
            delay: 0.0,
            share: 0.0,
            refusing: 0.0,
            pause: LEAST,
        }
    }

    /// Whether calls may be refused: with this mean delay in the last `time`, the delay that it should be, and the share
    /// that is refused.
    pub(super) fn believes(
        &mut self,
        delay: f64,
        target: f64,
        share: f64,
        time: f64,
        now: Instant,
    ) -> bool {
        let weight = (time / SMOOTH).min(1.0);
        self.delay += weight * (delay - self.delay);
        self.share += weight * (share - self.share);
        let is_vain = self.delay > LONG * target && self.share > NEARLY;
        self.stage = match self.stage {
            Stage::Believed { .. } if !is_vain => Stage::Believed { vain: None },
            Stage::Believed { vain: Some(since) }
                if now.saturating_duration_since(since) >= VAIN =>
            {
                // Believed -> Trial
                self.refusing = self.delay;
                Stage::Trial {
                    until: later(now, TRIAL),
                    sum: 0.0,
                    count: 0.0,
                }
            }
            Stage::Believed { vain } => Stage::Believed {
                vain: vain.or(Some(now)),
            },
            Stage::Trial { until, sum, count } => {
                let (sum, count) = (sum + delay, count + 1.0);
                if delay > MUCH_LONGER * self.refusing {
                    self.proven(now)
                } else if now < until {
                    Stage::Trial { until, sum, count }
                } else if sum / count > LONGER * self.refusing {
                    self.proven(now)
                } else {
                    // Trial -> Idle
                    let until = later(now, self.longer());
                    Stage::Idle { until }
                }
            }
            // Idle -> Believed
            Stage::Idle { until } if now >= until || self.delay > LONGER * self.refusing => {
                Stage::Believed { vain: None }
            }
            // Proven -> Believed
            Stage::Proven { until } if now >= until => Stage::Believed { vain: None },
            same => same,
        };
        matches!(self.stage, Stage::Believed { .. } | Stage::Proven { .. })
    }

    /// All is well: what was found out is forgotten.
    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// Trial -> Proven
    fn proven(&mut self, now: Instant) -> Stage {
        let until = later(now, self.longer());
        Stage::Proven { until }
    }

    fn longer(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(MOST);
        pause
    }
}

fn later(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).unwrap_or(now)
}
