//! What is measured: calls in flight over time, calls that ended, and how noisy the latter are.

/// Seconds since the limit was made.
pub(super) type Seconds = f64;

/// Completions that say nothing yet about how latencies vary.
const FEW: u32 = 20;
/// The moments of latencies follow the last so many.
const MEMORY: u32 = 200;
/// What is seen between neighbouring windows weighs so much each time.
const OBSERVED: f64 = 0.05;

/// So many calls that nobody waited for, for each that ended, leave nothing to conclude from.
const MOST_CANCELLED: u32 = 10;

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    begun: Seconds,
    /// The integral of the calls in flight.
    area: f64,
    /// The time at the limit, or with a queue.
    bound: f64,
    /// Calls that ended.
    pub(super) ended: u32,
    /// How many of them were errors.
    errors: u32,
    /// Calls that nobody waited for.
    cancelled: u32,
}

/// What a window tells, by Little's law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) time: Seconds,
    /// The mean of the calls in flight.
    pub(super) in_flight: f64,
    /// Calls that ended in a second.
    pub(super) rate: f64,
    /// The share of the time at the limit.
    pub(super) bound: f64,
    /// The mean time in the service.
    pub(super) latency: Seconds,
    /// Whether errors were few, so that the latency is that of the service's work.
    pub(super) is_sound: bool,
}

impl Window {
    pub(super) fn from(now: Seconds) -> Self {
        Self {
            begun: now,
            ..Self::default()
        }
    }

    pub(super) fn time(&self, now: Seconds) -> Seconds {
        now - self.begun
    }

    /// So many calls were in flight for this time.
    pub(super) fn pass(&mut self, time: Seconds, in_flight: f64, is_bound: bool) {
        self.area += time * in_flight;
        if is_bound {
            self.bound += time;
        }
    }

    pub(super) fn count(&mut self, is_error: bool) {
        self.ended = self.ended.saturating_add(1);
        self.errors = self.errors.saturating_add(u32::from(is_error));
    }

    /// Nobody waited for the end of a call: only the time until then is known.
    pub(super) fn cancel(&mut self) {
        self.cancelled = self.cancelled.saturating_add(1);
    }

    /// Whether so few of the calls came to their end that nothing is known of how long they take.
    pub(super) fn is_mute(&self) -> bool {
        self.cancelled / MOST_CANCELLED > self.ended
    }

    /// A call that tells nothing of the service's work was in flight for this time: as if it had not been.
    pub(super) fn forget(&mut self, time: Seconds, now: Seconds) {
        // What lies before the window is in none.
        self.area = (self.area - time.min(self.time(now))).max(0.0);
    }

    /// Takes over what the other one saw.
    pub(super) fn fold(&mut self, other: &Self) {
        self.area += other.area;
        self.bound += other.bound;
        self.ended = self.ended.saturating_add(other.ended);
        self.errors = self.errors.saturating_add(other.errors);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
    }

    pub(super) fn look(&self, now: Seconds) -> Look {
        let time = self.time(now);
        let ended = f64::from(self.ended);
        Look {
            time,
            in_flight: self.area / time,
            rate: ended / time,
            bound: self.bound / time,
            latency: self.area / ended,
            is_sound: self.errors <= self.ended / 10,
        }
    }
}

/// How much one completion tells: the larger of what latencies and what neighbouring windows say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    mean: f64,
    square: f64,
    seen: u32,
    observed: f64,
    /// Latency, completions and limit of the window before.
    before: Option<(f64, u32, f64)>,
}

impl Noise {
    pub(super) fn new() -> Self {
        Self {
            mean: 0.0,
            square: 0.0,
            seen: 0,
            observed: 1.0,
            before: None,
        }
    }

    pub(super) fn add(&mut self, latency: Seconds) {
        self.seen = self.seen.saturating_add(1).min(MEMORY);
        let weight = 1.0 / f64::from(self.seen);
        self.mean += weight * (latency - self.mean);
        self.square += weight * (latency * latency - self.square);
    }

    /// Compares a window with the one before, if the limit was the same.
    pub(super) fn observe(&mut self, latency: Seconds, ended: u32, limit: f64) {
        if let Some((before, then, same)) = self.before
            && same == limit
        {
            let expected = 1.0 / f64::from(ended) + 1.0 / f64::from(then);
            let seen = (latency / before).ln().powi(2);
            self.observed += OBSERVED * (seen / expected - self.observed);
        }
        self.before = Some((latency, ended, limit));
    }

    /// The square of the coefficient of variation.
    pub(super) fn cv2(&self) -> f64 {
        let latencies = if self.seen < FEW || self.mean <= 0.0 {
            1.0
        } else {
            (self.square / (self.mean * self.mean) - 1.0).clamp(0.1, 9.0)
        };
        latencies.max(self.observed.min(25.0))
    }

    pub(super) fn cv(&self) -> f64 {
        self.cv2().sqrt()
    }

    /// The standard error of the logarithm of a mean of so many.
    pub(super) fn sigma(&self, ended: u32) -> f64 {
        self.cv() / f64::from(ended.max(1)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn littles_law_tells_the_mean_latency() {
        let mut window = Window::from(10.0);
        window.pass(0.5, 4.0, false);
        window.pass(0.5, 8.0, true);
        for _ in 0..60 {
            window.count(false);
        }
        let look = window.look(11.0);
        assert_eq!((look.in_flight, look.rate, look.bound), (6.0, 60.0, 0.5));
        assert_eq!(look.latency, 0.1);
        assert!(look.is_sound);
    }

    #[test]
    fn a_call_that_tells_nothing_leaves_no_trace() {
        let mut window = Window::from(0.0);
        window.pass(1.0, 3.0, false);
        window.count(false);
        window.count(false);
        // One of the three was an error that came at once.
        window.forget(1.0, 1.0);
        assert_eq!(window.look(1.0).latency, 1.0);
        window.forget(100.0, 1.0);
        assert_eq!(
            window.look(1.0).latency,
            0.5,
            "no more than the window holds"
        );
    }

    #[test]
    fn a_window_of_errors_is_not_sound() {
        let mut window = Window::from(0.0);
        window.pass(1.0, 1.0, false);
        for error in [false, false, true] {
            window.count(error);
        }
        assert!(!window.look(1.0).is_sound);
    }

    #[test]
    fn noise_is_that_of_the_latencies_or_of_the_windows() {
        let mut noise = Noise::new();
        for _ in 0..200 {
            noise.add(0.1);
        }
        assert_eq!(noise.cv2(), 1.0, "as windows say until they are seen");
        for _ in 0..200 {
            noise.observe(0.1, 100, 16.0);
        }
        assert!((noise.cv2() - 0.1).abs() < 1e-9, "{}", noise.cv2());
        for latency in [0.1, 0.4].into_iter().cycle().take(400) {
            noise.observe(latency, 100, 16.0);
        }
        assert_eq!(noise.cv2(), 25.0);
    }
}
