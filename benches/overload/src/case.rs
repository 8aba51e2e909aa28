//! What can be measured: a backend behind a variant of admission control, under a scenario.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// One run: a server process and the load that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) protocol: Protocol,
    pub(crate) backend: Backend,
    pub(crate) variant: Variant,
    pub(crate) scenario: Scenario,
    /// Offered load, in hundredths of what the backend can do.
    pub(crate) percent: u32,
    pub(crate) seed: u64,
    pub(crate) lengths: Lengths,
}

/// How long the parts of a run take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lengths {
    /// Before anything is measured.
    pub(crate) warm_up: u64,
    /// Measured, all well.
    pub(crate) steady: u64,
    /// With less capacity.
    pub(crate) reduced: u64,
    /// With all of it again.
    pub(crate) restored: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// What the handler does, and so what the server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// 16 at once, each 40 ms on average, exponential; no processor time.
    Semaphore,
    /// 2.5 ms of processor time in slices of 250 us.
    Yield,
    /// 2.5 ms of processor time in one go.
    Inline,
    /// 10 at once: 5 ms, or 200 ms for each tenth call.
    Bimodal,
}

/// What stands before the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    NoLimit,
    /// tower's `ConcurrencyLimit` and `LoadShed`, with the limit that suits the backend.
    TowerTuned,
    TowerHigh,
    TowerLow,
    LittleLoadshedder,
    ResilienceAimd,
    ResilienceVegas,
    LoadShed,
    BackPressure,
    /// A handler that answers 503 to everything: what a rejection costs at least.
    Bare503,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    Steady,
    /// 2.5 times the load for 100 ms of each second.
    Bursts,
    /// A quarter of the places for a while.
    QuarterCapacity,
    /// Every call takes four times as long for a while.
    FourTimesSlower,
    /// As slow as that for the first five seconds of the server's life.
    SlowStart,
    /// 20 % critical, 30 % normal, 50 % sheddable.
    Priorities,
    /// Callers that hang up at their deadline.
    Impatient,
}

/// What happens to the backend while a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Places(usize),
    Slowness(u32),
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Semaphore, Self::Yield, Self::Inline, Self::Bimodal];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Semaphore => "semaphore",
            Self::Yield => "yield",
            Self::Inline => "inline",
            Self::Bimodal => "bimodal",
        }
    }

    /// How many calls it serves at once.
    pub(crate) fn places(self) -> usize {
        match self {
            Self::Semaphore => 16,
            Self::Bimodal => 10,
            Self::Yield | Self::Inline => 1,
        }
    }

    /// How long it takes for a call, on average.
    pub(crate) fn mean_service(self) -> Duration {
        match self {
            Self::Semaphore => Duration::from_millis(40),
            Self::Bimodal => Duration::from_micros(24_500),
            Self::Yield | Self::Inline => Duration::from_micros(2_500),
        }
    }

    /// Calls a second, by construction.
    pub(crate) fn capacity(self) -> f64 {
        self.places() as f64 / self.mean_service().as_secs_f64()
    }

    /// What comes later is worth nothing: 25 mean services, at least 250 ms.
    pub(crate) fn deadline(self) -> Duration {
        (self.mean_service() * 25).max(Duration::from_millis(250))
    }

    /// The limit that someone who knows the backend would set: what it serves at once and half as much to keep it
    /// busy, or for one core enough that it never idles.
    pub(crate) fn tuned_limit(self) -> usize {
        match self {
            Self::Semaphore | Self::Bimodal => self.places() * 3 / 2,
            Self::Yield | Self::Inline => 8,
        }
    }
}

impl Variant {
    pub(crate) const ALL: [Self; 10] = [
        Self::NoLimit,
        Self::TowerTuned,
        Self::TowerHigh,
        Self::TowerLow,
        Self::LittleLoadshedder,
        Self::ResilienceAimd,
        Self::ResilienceVegas,
        Self::LoadShed,
        Self::BackPressure,
        Self::Bare503,
    ];

    pub(crate) const OURS: [Self; 2] = [Self::LoadShed, Self::BackPressure];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoLimit => "no-limit",
            Self::TowerTuned => "tower-tuned",
            Self::TowerHigh => "tower-4x-high",
            Self::TowerLow => "tower-4x-low",
            Self::LittleLoadshedder => "little-loadshedder",
            Self::ResilienceAimd => "tower-resilience-aimd",
            Self::ResilienceVegas => "tower-resilience-vegas",
            Self::LoadShed => "load_shed",
            Self::BackPressure => "back_pressure",
            Self::Bare503 => "bare-503",
        }
    }

    /// What a layer of ours is held against: what someone gets who knows nothing about the backend.
    pub(crate) fn is_untuned_peer(self) -> bool {
        !matches!(
            self,
            Self::TowerTuned | Self::LoadShed | Self::BackPressure | Self::Bare503
        )
    }
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Bursts => "bursts",
            Self::QuarterCapacity => "quarter-capacity",
            Self::FourTimesSlower => "four-times-slower",
            Self::SlowStart => "slow-start",
            Self::Priorities => "priorities",
            Self::Impatient => "impatient",
        }
    }
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

impl Case {
    /// Offered load as a multiple of the capacity.
    pub(crate) fn load(&self) -> f64 {
        f64::from(self.percent) / 100.0
    }

    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        self.load() * self.backend.capacity()
    }

    pub(crate) fn length(&self) -> Duration {
        let Lengths {
            warm_up,
            steady,
            reduced,
            restored,
        } = self.lengths;
        Duration::from_millis(warm_up + steady + reduced + restored)
    }

    /// Where the measured part begins.
    pub(crate) fn measured_from(&self) -> Duration {
        Duration::from_millis(self.lengths.warm_up)
    }

    /// Where the backend loses capacity, and where it has it again.
    pub(crate) fn reduced(&self) -> (Duration, Duration) {
        let from = self.lengths.warm_up + self.lengths.steady;
        let to = from + self.lengths.reduced;
        (Duration::from_millis(from), Duration::from_millis(to))
    }

    /// What happens to the backend, and when.
    pub(crate) fn changes(&self) -> Vec<(Duration, Change)> {
        let (from, to) = self.reduced();
        let (worse, well) = match self.scenario {
            Scenario::QuarterCapacity => {
                let places = self.backend.places();
                (Change::Places((places / 4).max(1)), Change::Places(places))
            }
            Scenario::FourTimesSlower | Scenario::SlowStart => {
                (Change::Slowness(4), Change::Slowness(1))
            }
            Scenario::Steady | Scenario::Bursts | Scenario::Priorities | Scenario::Impatient => {
                return Vec::new();
            }
        };
        vec![(from, worse), (to, well)]
    }

    /// The case without its seed: what medians are taken over.
    pub(crate) fn family(&self) -> String {
        let names = [
            self.protocol.name(),
            self.backend.name(),
            self.scenario.name(),
            self.variant.name(),
        ];
        format!("{} {}", names.join("/"), self.load())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} seed {}", self.family(), self.seed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A case for tests.
    pub(crate) fn case(variant: Variant, percent: u32) -> Case {
        Case {
            protocol: Protocol::Http,
            backend: Backend::Semaphore,
            variant,
            scenario: Scenario::Steady,
            percent,
            seed: 1,
            lengths: Lengths {
                warm_up: 1_000,
                steady: 3_000,
                reduced: 0,
                restored: 0,
            },
        }
    }

    #[test]
    fn capacity_and_deadline_follow_from_the_backend() {
        assert_eq!(Backend::Semaphore.capacity(), 400.0);
        assert_eq!(Backend::Yield.capacity(), 400.0);
        assert_eq!(Backend::Semaphore.deadline(), Duration::from_secs(1));
        assert_eq!(Backend::Inline.deadline(), Duration::from_millis(250));
    }

    #[test]
    fn the_backend_loses_capacity_and_gets_it_back() {
        let mut case = case(Variant::NoLimit, 70);
        case.scenario = Scenario::QuarterCapacity;
        case.lengths.reduced = 2_000;
        case.lengths.restored = 5_000;
        let changes = case.changes();
        assert_eq!(changes[0], (Duration::from_secs(4), Change::Places(4)));
        assert_eq!(changes[1], (Duration::from_secs(6), Change::Places(16)));
        assert_eq!(case.length(), Duration::from_secs(11));
    }

    #[test]
    fn a_case_survives_being_written_down() {
        let case = case(Variant::LittleLoadshedder, 1_000);
        let written = serde_json::to_string(&case).expect("a case is plain data");
        assert_eq!(serde_json::from_str::<Case>(&written).unwrap(), case);
        assert_eq!(
            case.to_string(),
            "http/semaphore/steady/little-loadshedder 10 seed 1"
        );
    }
}
