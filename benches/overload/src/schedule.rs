//! When calls start: drawn before the first one does, so that no answer can delay them.

use std::time::Duration;

use fastrand::Rng;

use crate::case::{Case, Scenario};

/// One call to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// After the start of the run.
    pub(crate) at: Duration,
    pub(crate) class: Class,
}

/// How important a call says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Unsaid,
    Critical,
    Normal,
    Sheddable,
}

impl Class {
    /// Those of [`Scenario::Priorities`], the most important one first.
    pub(crate) const SAID: [Self; 3] = [Self::Critical, Self::Normal, Self::Sheddable];

    /// The value of the header `x-criticality`.
    pub(crate) fn header(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::Critical => Some("critical"),
            Self::Normal => Some("normal"),
            Self::Sheddable => Some("sheddable"),
        }
    }

    fn draw(random: &mut Rng) -> Self {
        match random.f64() {
            share if share < 0.2 => Self::Critical,
            share if share < 0.5 => Self::Normal,
            _ => Self::Sheddable,
        }
    }
}

/// A burst comes once a second, this long and this strong.
const BURST: Duration = Duration::from_millis(100);
const BURST_FACTOR: f64 = 2.5;

/// The calls of a case: a Poisson process, the same for the same seed.
pub(crate) fn arrivals(case: &Case) -> Vec<Arrival> {
    let mut random = Rng::with_seed(case.seed);
    let bursts = case.scenario == Scenario::Bursts;
    let fastest = case.rate() * if bursts { BURST_FACTOR } else { 1.0 };
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    loop {
        at -= (1.0 - random.f64()).ln() / fastest;
        let at = Duration::from_secs_f64(at);
        if at >= case.length() {
            return arrivals;
        }
        // Outside the bursts most of the arrivals of the fastest process are left out, which leaves a slower one.
        let in_burst = at.subsec_nanos() < BURST.subsec_nanos();
        if bursts && !in_burst && random.f64() * BURST_FACTOR >= 1.0 {
            continue;
        }
        let class = match case.scenario {
            Scenario::Priorities => Class::draw(&mut random),
            _ => Class::Unsaid,
        };
        arrivals.push(Arrival { at, class });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Variant, tests::case};

    fn long(scenario: Scenario, percent: u32) -> Vec<Arrival> {
        let mut case = case(Variant::NoLimit, percent);
        case.scenario = scenario;
        case.lengths.steady = 99_000;
        arrivals(&case)
    }

    #[test]
    fn one_seed_gives_one_schedule() {
        let mut one = case(Variant::NoLimit, 200);
        let first = arrivals(&one);
        one.variant = Variant::BackPressure;
        assert_eq!(arrivals(&one), first);
        one.seed = 2;
        assert_ne!(arrivals(&one), first);
    }

    #[test]
    fn gaps_are_exponential_and_as_many_as_asked_for() {
        let calls = long(Scenario::Steady, 200);
        // 80,000 expected, standard deviation 283.
        assert!((78_600..81_400).contains(&calls.len()), "{}", calls.len());
        let gaps: Vec<f64> = calls
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let long = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
        assert!((long - (-1.0_f64).exp()).abs() < 0.01, "{long}");
    }

    #[test]
    fn bursts_are_two_and_a_half_times_as_dense() {
        let calls = long(Scenario::Bursts, 70);
        let inside = calls
            .iter()
            .filter(|call| call.at.subsec_millis() < 100)
            .count() as f64;
        let outside = calls.len() as f64 - inside;
        let ratio = inside / outside * 9.0;
        assert!((2.3..2.7).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_fifth_is_critical_and_half_is_sheddable() {
        let calls = long(Scenario::Priorities, 200);
        let share = |class| {
            let of_class = calls.iter().filter(|call| call.class == class).count();
            of_class as f64 / calls.len() as f64
        };
        assert!((share(Class::Critical) - 0.2).abs() < 0.01);
        assert!((share(Class::Sheddable) - 0.5).abs() < 0.01);
        assert_eq!(share(Class::Unsaid), 0.0);
    }
}
