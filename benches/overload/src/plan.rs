//! Which cases are run, for how long, and in which order.

use std::time::Duration;

use crate::case::{
    Backend::{self, Bimodal, Inline, Semaphore, Yield},
    Case, Lengths, Protocol, Scenario, Variant,
};

/// What is asked of the program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) full: bool,
    /// Every case over gRPC.
    pub(crate) grpc: bool,
    pub(crate) seeds: Vec<u64>,
    /// What is measured of a steady case; a third of it is the warm-up.
    pub(crate) seconds: Option<u64>,
    pub(crate) backends: Vec<String>,
    pub(crate) variants: Vec<String>,
    pub(crate) scenarios: Vec<String>,
    pub(crate) percents: Vec<u32>,
}

/// Backend, scenario, variants and loads in percent.
type Block<'a> = (Backend, Scenario, &'a [Variant], &'a [u32]);

use Scenario::{
    Bursts, FourTimesSlower, Impatient, Priorities, QuarterCapacity, SlowStart, Steady,
};
use Variant::{
    BackPressure, Bare503, LittleLoadshedder, LoadShed, NoLimit, ResilienceAimd, ResilienceVegas,
    TowerHigh, TowerLow, TowerTuned,
};

const OURS: &[Variant] = &Variant::OURS;
const ALL: &[Variant] = &[
    NoLimit,
    TowerTuned,
    TowerHigh,
    TowerLow,
    LittleLoadshedder,
    ResilienceAimd,
    ResilienceVegas,
    LoadShed,
    BackPressure,
];
/// Without the second one of a kind.
const MOST: &[Variant] = &[
    NoLimit,
    TowerTuned,
    TowerHigh,
    TowerLow,
    LittleLoadshedder,
    ResilienceAimd,
    LoadShed,
    BackPressure,
];
/// Those that hold when capacity is lost, or should.
const LIMITED: &[Variant] = &[
    TowerTuned,
    TowerHigh,
    TowerLow,
    LittleLoadshedder,
    ResilienceAimd,
    LoadShed,
    BackPressure,
];
const ADAPTIVE: &[Variant] = &[LittleLoadshedder, ResilienceAimd, LoadShed, BackPressure];
const OVERLOADS: &[u32] = &[120, 200, 500, 1_000];

/// What the figures refer to stands first: the peak, the unloaded server, the bare rejection.
const QUICK: &[Block<'_>] = &[
    (Semaphore, Steady, &[NoLimit], &[50, 100]),
    (Semaphore, Steady, &[TowerTuned], &[100]),
    (Semaphore, Steady, &[Bare503], &[1_000]),
    (Yield, Steady, &[NoLimit], &[50, 100]),
    (Semaphore, Steady, ADAPTIVE, &[80]),
    (Semaphore, Steady, MOST, &[200, 1_000]),
    (
        Yield,
        Steady,
        &[NoLimit, LittleLoadshedder, LoadShed, BackPressure],
        &[200],
    ),
    (Inline, Steady, &[NoLimit], &[90]),
    (Inline, Steady, &[NoLimit, BackPressure], &[200]),
    (Inline, Steady, &[BackPressure], &[500, 1_000]),
    (Bimodal, Steady, &[LittleLoadshedder, BackPressure], &[200]),
    (Semaphore, Priorities, OURS, &[200]),
    (Semaphore, Priorities, &[BackPressure], &[500]),
    (
        Semaphore,
        QuarterCapacity,
        &[LittleLoadshedder, BackPressure],
        &[200],
    ),
    (Semaphore, SlowStart, &[BackPressure], &[70]),
];
const QUICK_GRPC: &[Block<'_>] = &[(
    Semaphore,
    Steady,
    &[NoLimit, LoadShed, BackPressure],
    &[200],
)];

const FULL: &[Block<'_>] = &[
    (Semaphore, Steady, &[NoLimit, TowerTuned], &[100, 110]),
    (Semaphore, Steady, OURS, &[100]),
    (Semaphore, Steady, &[Bare503], &[1_000]),
    (Yield, Steady, &[NoLimit, TowerTuned], &[90, 100, 110]),
    (Bimodal, Steady, &[NoLimit, TowerTuned], &[90, 100, 110]),
    (Yield, Steady, &[NoLimit], &[50]),
    (Bimodal, Steady, &[NoLimit], &[50]),
    (Semaphore, Steady, ALL, &[50, 80, 90, 120, 200, 500, 1_000]),
    (Yield, Steady, OURS, &[50, 80, 90]),
    (Yield, Steady, MOST, OVERLOADS),
    (Bimodal, Steady, OURS, &[50, 80, 90]),
    (Bimodal, Steady, MOST, OVERLOADS),
    (
        Inline,
        Steady,
        &[NoLimit, TowerTuned, LoadShed, BackPressure],
        &[90, 120, 200, 500, 1_000],
    ),
    (Semaphore, Priorities, OURS, &[200, 500]),
    (Semaphore, QuarterCapacity, LIMITED, &[70, 200]),
    (Semaphore, FourTimesSlower, LIMITED, &[70, 200]),
    (Semaphore, SlowStart, ADAPTIVE, &[70, 200]),
    (Semaphore, Bursts, LIMITED, &[70]),
    (
        Semaphore,
        Impatient,
        &[NoLimit, TowerTuned, LoadShed, BackPressure],
        &[200, 1_000],
    ),
];
const FULL_GRPC: &[Block<'_>] = &[(Semaphore, Steady, MOST, &[80, 200, 1_000])];

impl Plan {
    /// The cases to be run, in order; one that filters choose is run even if it is not among the quick ones.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let filters = [&self.backends, &self.variants, &self.scenarios];
        let filtered = filters.iter().any(|words| !words.is_empty()) || !self.percents.is_empty();
        let (http, grpc) = if self.full || filtered {
            (FULL, FULL_GRPC)
        } else {
            (QUICK, QUICK_GRPC)
        };
        let mut cases = Vec::new();
        for seed in &self.seeds {
            if self.grpc {
                // To hang up is to close a connection, which many calls share here.
                let blocks = http
                    .iter()
                    .filter(|(_, scenario, ..)| *scenario != Impatient);
                cases.extend(blocks.flat_map(|block| self.block(block, Protocol::Grpc, *seed)));
                continue;
            }
            cases.extend(
                http.iter()
                    .flat_map(|block| self.block(block, Protocol::Http, *seed)),
            );
            // Who chooses says --grpc.
            let grpc = if filtered && !self.full { &[] } else { grpc };
            cases.extend(
                grpc.iter()
                    .flat_map(|block| self.block(block, Protocol::Grpc, *seed)),
            );
        }
        cases.retain(|case| self.wants(case));
        cases
    }

    fn block(&self, block: &Block<'_>, protocol: Protocol, seed: u64) -> Vec<Case> {
        let (backend, scenario, variants, percents) = *block;
        let of_load = |percent| {
            variants.iter().map(move |variant| Case {
                protocol,
                backend,
                variant: *variant,
                scenario,
                percent,
                seed,
                lengths: self.lengths(scenario, *variant),
            })
        };
        percents
            .iter()
            .flat_map(|percent| of_load(*percent))
            .collect()
    }

    fn lengths(&self, scenario: Scenario, variant: Variant) -> Lengths {
        let (seconds, warm_up) = match (self.seconds, self.full) {
            (Some(seconds), _) => (seconds * 1_000, seconds * 1_000 / 3),
            // It takes half a minute to find 16 places.
            (None, true) if variant == LittleLoadshedder => (30_000, 30_000),
            (None, true) => (30_000, 10_000),
            (None, false) => (3_000, 2_000),
        };
        let steady = Lengths {
            warm_up,
            steady: seconds,
            reduced: 0,
            restored: 0,
        };
        match scenario {
            Steady | Bursts | Priorities | Impatient => steady,
            QuarterCapacity | FourTimesSlower => Lengths {
                steady: seconds.min(10_000),
                reduced: seconds,
                restored: seconds.min(10_000),
                ..steady
            },
            SlowStart => Lengths {
                warm_up: 0,
                steady: 0,
                reduced: 5_000,
                restored: seconds.min(10_000),
            },
        }
    }

    fn wants(&self, case: &Case) -> bool {
        let among = |words: &[String], name: &str| {
            words.is_empty() || words.iter().any(|word| word == name)
        };
        among(&self.backends, case.backend.name())
            && among(&self.variants, case.variant.name())
            && among(&self.scenarios, case.scenario.name())
            && (self.percents.is_empty() || self.percents.contains(&case.percent))
    }
}

/// How long a case takes: its calls, its start, and where answers come late or never, the wait for them.
pub(crate) fn duration(case: &Case) -> Duration {
    let overloaded = case.percent >= 100 && matches!(case.variant, NoLimit | TowerHigh);
    let waits = if overloaded {
        case.backend.deadline()
    } else {
        Duration::ZERO
    };
    case.length() + waits + Duration::from_millis(600)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(crate) fn quick() -> Plan {
        Plan {
            full: false,
            grpc: false,
            seeds: vec![1],
            seconds: None,
            backends: Vec::new(),
            variants: Vec::new(),
            scenarios: Vec::new(),
            percents: Vec::new(),
        }
    }

    #[test]
    fn the_quick_look_takes_less_than_five_minutes() {
        let cases = quick().cases();
        let total: Duration = cases.iter().map(duration).sum();
        assert!(
            total < Duration::from_secs(290),
            "{total:?} for {} cases",
            cases.len()
        );
        assert!(cases.iter().any(|case| case.protocol == Protocol::Grpc));
    }

    #[test]
    fn medians_of_three_looks_take_less_than_a_quarter_of_an_hour() {
        let mut plan = quick();
        plan.seeds = vec![1, 2, 3];
        let total: Duration = plan.cases().iter().map(duration).sum();
        assert!(total < Duration::from_secs(870), "{total:?}");
    }

    #[test]
    fn no_case_is_run_twice() {
        let mut full = quick();
        full.full = true;
        full.seeds = vec![1, 2, 3];
        for plan in [quick(), full] {
            let cases = plan.cases();
            let names: BTreeSet<String> = cases.iter().map(Case::to_string).collect();
            assert_eq!(names.len(), cases.len());
        }
    }

    #[test]
    fn filters_choose_from_all_cases_and_keep_the_short_lengths() {
        let mut plan = quick();
        plan.backends = vec!["yield".to_owned()];
        plan.variants = vec!["back_pressure".to_owned()];
        plan.percents = vec![500];
        let cases = plan.cases();
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].length(), Duration::from_secs(5));
        plan.grpc = true;
        assert_eq!(plan.cases()[0].protocol, Protocol::Grpc);
    }

    #[test]
    fn a_full_run_measures_thirty_seconds_after_ten() {
        let mut plan = quick();
        plan.full = true;
        let mut cases = plan.cases();
        assert_eq!(cases[0].lengths.warm_up, 10_000);
        assert_eq!(cases[0].lengths.steady, 30_000);
        cases.retain(|case| case.scenario == QuarterCapacity);
        assert_eq!(cases[0].length(), Duration::from_secs(60));
    }
}
