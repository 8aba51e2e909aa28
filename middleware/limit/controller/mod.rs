//! What the limit should be: steered by Little's law over windows, every doubt settled by an experiment.
//!
//! Most adaptive limits compare the latency of now with a baseline of before, and go wrong with that baseline. Here
//! there is one number, the time that a call takes when nothing is in its way, and whenever it may be wrong the limit
//! is moved and the latency looked at: did it follow the calls in flight? Then they were a queue of our making.

mod ages;
mod by_hand;
mod experiments;
mod told;

use super::window::{Look, Noise, Seconds, Window};
use ages::Ages;
pub(super) use ages::Cohort;
use told::whole;
pub(super) use told::{Sample, Standing, Tuning, as_float};

/// A fast window has at least so many completions.
const FAST: f64 = 12.0;
/// A slow one so many, and a relative error no larger than this.
const SLOW: u32 = 200;
const SLOW_ERROR: f64 = 0.1;
/// The shortest window, and the longest if there are a few completions.
const SHORTEST: Seconds = 0.05;
const LONGEST: Seconds = 1.0;
/// So many standard errors are no accident; so many confirm what was suspected.
const SURE: f64 = 1.6;
const AGREED: f64 = 0.5;
/// Nothing is steered before the first time is known that well, or this time has passed.
const FIRST: u32 = 100;
const FIRST_ERROR: f64 = 0.15;
const FIRST_TIME: Seconds = 2.0;
/// Of what the knee needs, one call more: limits are whole.
const SLACK: f64 = 1.0;
/// Where nobody waits, bursts need places in the limit itself, as long as no latency tells of a queue: so many standard
/// deviations of a Poisson process.
const BURSTS: f64 = 3.0;
/// The most that a limit grows at once.
const MOST_GROWTH: f64 = 1.5;
/// Downward experiments: how far, how often at most and at least, and how long for each second of the last one.
const DIP: f64 = 0.6;
const DIP_FIRST: Seconds = 2.0;
const DIP_PERIOD: Seconds = 10.0;
const DIP_RAREST: Seconds = 60.0;
const DIP_COST: f64 = 40.0;
const MOST_DIPS: u32 = 8;
/// Upward ones: how far, how often, and how much they may look at.
const UP: f64 = 1.5;
const UP_PERIOD: Seconds = 4.0;
const UP_ENDED: u32 = 1_500;
const UP_TIME: Seconds = 4.0;
/// After so many times the time without load a call hangs, and says no more of the service than that.
const HANGS: f64 = 15.0;
/// A cut halves what is in flight; so often at most in a row while capacity still moves.
const CUT: f64 = 0.5;
const MOST_CUTS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Normal,
    /// Waits until so few are in flight as the limit says.
    Drain,
    /// Looks at what an experiment did.
    Judge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dip,
    Cut,
    Up,
}

/// The experiment that runs, or the last one.
#[derive(Clone, Copy, Debug)]
struct Trial {
    kind: Kind,
    begun: Seconds,
    /// In flight, latency and completions before.
    in_flight: f64,
    latency: Seconds,
    ended: u32,
    /// The limit before.
    limit: f64,
    tries: u32,
}

/// Steers a limit. Time goes in, a limit comes out.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    tuning: Tuning,
    /// What an adaptive limit steers by once nobody holds it any more.
    kept: Option<Tuning>,
    limit: f64,
    /// The same in whole calls.
    whole: usize,
    in_flight: usize,
    ages: Ages,
    /// The mean time of a call when nothing is in its way.
    base: Option<Seconds>,
    /// Completions in a second, of the last window.
    rate: f64,
    noise: Noise,
    last: Seconds,
    fast: Window,
    slow: Window,
    phase: Phase,
    trial: Trial,
    suspects_high: bool,
    suspects_low: bool,
    /// Time at the limit since the last dip and the last look upward.
    bound: Seconds,
    bound_up: Seconds,
    next_dip: Seconds,
}

impl Controller {
    pub(super) fn new(tuning: Tuning) -> Self {
        let limit = tuning.initial.clamp(tuning.min, tuning.max);
        Self {
            limit,
            whole: whole(limit),
            tuning,
            kept: None,
            in_flight: 0,
            ages: Ages::new(),
            base: None,
            rate: 0.0,
            noise: Noise::new(),
            last: 0.0,
            fast: Window::from(0.0),
            slow: Window::from(0.0),
            phase: Phase::Normal,
            trial: Trial {
                kind: Kind::Up,
                begun: 0.0,
                in_flight: 1.0,
                latency: 1.0,
                ended: 1,
                limit: tuning.initial,
                tries: 0,
            },
            suspects_high: false,
            suspects_low: false,
            bound: 0.0,
            bound_up: 0.0,
            next_dip: DIP_FIRST,
        }
    }

    /// Calls that may be in flight: those that it takes, and if it adapts as many that hang, for they need nothing
    /// but their place.
    pub(super) fn limit(&self) -> usize {
        let idle = self.ages.idle();
        if idle == 0 || !self.tuning.adapts {
            return self.whole;
        }
        self.whole.saturating_add(idle).min(whole(self.tuning.max))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Those in flight that do not hang.
    pub(super) fn at_work(&self) -> usize {
        self.in_flight.saturating_sub(self.ages.old())
    }

    pub(super) fn has_place(&self) -> bool {
        self.in_flight < self.limit()
    }

    pub(super) fn base(&self) -> Option<Seconds> {
        self.base
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    pub(super) fn noise(&self) -> &Noise {
        &self.noise
    }

    /// Accounts for the time until now, in which nothing changed. To be called before anything does.
    pub(super) fn advance(&mut self, now: Seconds, waits: bool, reserved: usize) {
        let time = now - self.last;
        if time > LONGEST && self.in_flight == 0 && !waits {
            // Nobody asked for anything: that tells nothing of what could have been done.
            self.reset(now);
        } else if time > 0.0 {
            let is_bound = waits || self.in_flight.saturating_add(reserved) >= self.limit();
            self.fast.pass(time, as_float(self.at_work()), is_bound);
            self.last = now;
        }
        if let Some(base) = self.base {
            // For what is measured they end here: the mean is that of times cut off at this one.
            let age = HANGS * base;
            for _ in 0..self.ages.pass(now, age) {
                self.fast.count(false);
                self.noise.add(age);
            }
        }
    }

    pub(super) fn begin(&mut self) -> Cohort {
        self.in_flight = self.in_flight.saturating_add(1);
        self.ages.begin()
    }

    /// A call ended, of which the time until now is accounted for.
    pub(super) fn end(&mut self, now: Seconds, cohort: Cohort, sample: Sample) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if !self.ages.end(cohort) {
            return;
        }
        match sample {
            Sample::Served(latency) => {
                self.fast.count(false);
                self.noise.add(latency);
            }
            // One that failed at once tells how fast the service fails, and no more.
            Sample::Failed(latency) if self.base.is_none_or(|base| latency < base / 2.0) => {
                self.forget(latency, now);
            }
            Sample::Failed(latency) => {
                self.fast.count(true);
                self.noise.add(latency);
            }
            Sample::Cancelled => self.fast.cancel(),
            Sample::Nothing(time) => self.forget(time, now),
        }
    }

    fn forget(&mut self, time: Seconds, now: Seconds) {
        let in_fast = time.min(self.fast.time(now));
        self.fast.forget(in_fast, now);
        self.slow.forget(time - in_fast, now);
    }

    /// Draws conclusions, if it is time to. To be asked after each change, and now and then.
    pub(super) fn check(&mut self, now: Seconds, room: Standing) {
        if self.phase == Phase::Drain {
            if self.at_work() <= self.whole {
                // Drain -> Judge
                self.phase = Phase::Judge;
                self.reset(now);
            }
            return;
        }
        let time = self.fast.time(now);
        let cv2 = self.noise.cv2();
        let is_long = time >= SHORTEST
            && f64::from(self.fast.ended) >= FAST * cv2.max(1.0)
            && self.base.is_none_or(|base| time >= base);
        if time >= LONGEST && self.fast.is_mute() {
            return self.learn_nothing(now);
        }
        if !is_long && (time < LONGEST || self.fast.ended < 2) {
            return;
        }
        let fast = self.fast.look(now);
        if fast.in_flight <= 0.0 {
            return self.reset(now);
        }
        let Some(base) = self.base else {
            return self.start(now, room);
        };
        if self.phase == Phase::Judge {
            self.fold(now);
            return self.judge(now, base);
        }
        if fast.bound > 0.5 && self.tuning.adapts && self.look_fast(now, &fast, base, room) {
            return;
        }
        self.fold(now);
        let slow = self.slow.look(now);
        let ended = self.slow.ended;
        let sigma = self.noise.sigma(ended);
        let is_clear = ended >= SLOW && sigma <= SLOW_ERROR;
        if !is_clear && slow.time < LONGEST || ended < 4 {
            return;
        }
        self.look_slow(now, &slow, base, sigma, room);
    }

    /// Almost nobody waited for an answer. What was suspected or tried stays undecided.
    fn learn_nothing(&mut self, now: Seconds) {
        (self.suspects_high, self.suspects_low) = (false, false);
        if self.phase == Phase::Judge {
            // Judge -> Normal
            return self.settle(now, self.trial.limit);
        }
        self.reset(now);
    }

    /// The first time without load.
    fn start(&mut self, now: Seconds, room: Standing) {
        self.fold(now);
        let look = self.slow.look(now);
        let ended = self.slow.ended;
        let is_known = ended >= FIRST && self.noise.sigma(ended) < FIRST_ERROR;
        if is_known || (look.time > FIRST_TIME && ended >= 10) {
            self.base = Some(look.latency);
            self.rate = look.rate;
            if look.bound < 0.25 {
                self.leave_room(&look, look.latency, room);
            }
            self.reset(now);
        }
    }

    /// Large deviations only, and only after a second look, for the first one is chosen for being odd. Whether it acted.
    fn look_fast(&mut self, now: Seconds, look: &Look, base: Seconds, room: Standing) -> bool {
        let ended = self.fast.ended;
        let sigma = self.noise.sigma(ended);
        let ratio = (look.latency / base).ln();
        self.noise.observe(look.latency, ended, self.limit);
        let high = self.tuning.high().ln();
        if !room.stands {
            self.suspects_high = false;
        } else if self.suspects_high {
            self.suspects_high = false;
            if ratio > high + AGREED * sigma {
                self.cut(now, look, ended, base);
                return true;
            }
        } else if ratio > high + SURE * sigma {
            self.suspects_high = true;
            self.reset(now);
            return true;
        }
        let low = self.tuning.low().ln();
        if self.suspects_low {
            self.suspects_low = false;
            if ratio < low - AGREED * sigma {
                self.grow(now, look, base, sigma);
                return true;
            }
        } else if ratio < low - SURE * sigma {
            self.suspects_low = true;
        }
        false
    }

    fn look_slow(&mut self, now: Seconds, look: &Look, base: Seconds, sigma: f64, room: Standing) {
        self.rate = look.rate;
        let is_light = look.latency < self.tuning.low() * base;
        if is_light {
            self.leave_room(look, base, room);
        }
        if look.bound < 0.25 {
            // Limited by demand: the best time to learn.
            let ended = f64::from(self.slow.ended);
            let weight = if look.in_flight < 0.5 * self.limit {
                ended / (ended + 200.0 * self.noise.cv2().max(1.0))
            } else if look.latency < base {
                0.1
            } else {
                0.0
            };
            if look.is_sound {
                self.base = Some(base + weight * (look.latency - base));
            }
            return self.reset(now);
        }
        self.bound += look.time;
        if look.bound > 0.5 && !self.tuning.adapts {
            self.lower_base(look, base, sigma);
        } else if look.bound > 0.5 {
            if self.bound > self.next_dip && room.is_old() {
                self.bound = 0.0;
                self.bound_up = 0.0;
                self.remember(Kind::Dip, now, look, self.slow.ended);
                self.trial.tries = 0;
                return self.attempt(now, (DIP * look.rate * base - 0.3).ceil());
            }
            if room.stands && look.latency > self.tuning.high() * base * sigma.exp() {
                return self.cut(now, look, self.slow.ended, base);
            }
            if is_light {
                return self.grow(now, look, base, sigma);
            }
            self.bound_up += look.time;
            if self.bound_up > UP_PERIOD {
                self.bound_up = 0.0;
                self.remember(Kind::Up, now, look, self.slow.ended);
                return self.attempt(now, UP * self.limit);
            }
        }
        self.reset(now);
    }

    /// No mean latency lies below the time without load.
    fn lower_base(&mut self, look: &Look, base: Seconds, sigma: f64) -> Seconds {
        if !look.is_sound {
            return base;
        }
        let base = base.min(look.latency * sigma.exp());
        self.base = Some(base);
        base
    }

    fn grow(&mut self, now: Seconds, look: &Look, base: Seconds, sigma: f64) {
        let base = self.lower_base(look, base, sigma);
        self.rate = look.rate;
        self.raise(self.wanted(base));
        self.reset(now);
    }

    /// Where nobody waits and the limit was reached, though nothing tells of a queue: that was a burst.
    fn leave_room(&mut self, look: &Look, base: Seconds, room: Standing) {
        if room.is_shut && self.tuning.adapts && look.bound > 0.0 {
            let bursts = BURSTS * (self.rate * base).sqrt();
            self.raise(self.wanted(base) + bursts);
        }
    }

    /// Grows to this, not all at once.
    fn raise(&mut self, limit: f64) {
        let most = MOST_GROWTH * self.limit + 1.0;
        self.set_limit(self.limit.max(limit).min(most));
    }

    fn cut(&mut self, now: Seconds, look: &Look, ended: u32, base: Seconds) {
        self.rate = look.rate;
        let (tries, limit) = (self.trial.tries, self.trial.limit);
        self.remember(Kind::Cut, now, look, ended.max(1));
        if tries > 0 {
            self.trial.limit = limit;
        }
        self.attempt(
            now,
            ((CUT * look.in_flight).max(self.wanted(base)) - 0.3).ceil(),
        );
    }

    /// What the target asks for, at the rate of now.
    fn wanted(&self, base: Seconds) -> f64 {
        self.tuning.target * self.rate * base + SLACK
    }

    fn remember(&mut self, kind: Kind, now: Seconds, look: &Look, ended: u32) {
        self.trial = Trial {
            kind,
            begun: now,
            in_flight: look.in_flight,
            latency: look.latency,
            ended,
            limit: self.limit,
            tries: self.trial.tries,
        };
    }

    fn attempt(&mut self, now: Seconds, limit: f64) {
        self.set_limit(limit.max(1.0));
        // Normal -> Drain | Judge
        self.phase = if self.at_work() > self.whole {
            Phase::Drain
        } else {
            Phase::Judge
        };
        self.reset(now);
    }

    /// The standard error of a comparison with before.
    fn error(&self) -> f64 {
        let (ended, before) = (f64::from(self.slow.ended), f64::from(self.trial.ended));
        self.noise.cv() * (1.0 / ended + 1.0 / before).sqrt()
    }

    fn settle(&mut self, now: Seconds, limit: f64) {
        self.phase = Phase::Normal;
        self.set_limit(limit);
        self.reset(now);
    }

    fn set_limit(&mut self, limit: f64) {
        self.limit = limit.clamp(self.tuning.min, self.tuning.max);
        self.whole = whole(self.limit);
    }

    fn fold(&mut self, now: Seconds) {
        self.slow.fold(&self.fast);
        self.fast = Window::from(now);
    }

    fn reset(&mut self, now: Seconds) {
        self.fast = Window::from(now);
        self.slow = Window::from(now);
        self.last = now;
    }
}
