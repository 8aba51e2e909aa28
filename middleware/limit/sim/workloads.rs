//! What is asked of the servers.

use crate::limit::window::Seconds;

/// SplitMix64, so that every run is the same.
#[derive(Clone)]
pub(in crate::limit) struct Dice(u64);

impl Dice {
    pub(in crate::limit) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub(in crate::limit) fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.roll()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.roll()).cos()
    }
}

/// How long the work of a request takes.
#[derive(Clone, Copy)]
pub(in crate::limit) enum Work {
    Exponential(f64),
    /// 5 ms, and each tenth 200 ms.
    Bimodal,
    LogNormal {
        mean: f64,
        sigma: f64,
    },
}

impl Work {
    pub(super) fn draw(self, dice: &mut Dice) -> f64 {
        match self {
            Self::Exponential(mean) => dice.exponential(mean),
            Self::Bimodal if dice.roll() < 0.9 => 0.005,
            Self::Bimodal => 0.2,
            Self::LogNormal { mean, sigma } => {
                (mean.ln() - sigma * sigma / 2.0 + sigma * dice.normal()).exp()
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(in crate::limit) struct Workload {
    pub(in crate::limit) name: &'static str,
    /// Workers behind an invisible queue; or cores that all requests share.
    pub(in crate::limit) shares_cores: bool,
    pub(in crate::limit) servers: f64,
    pub(in crate::limit) work: Work,
    /// The mean of a wait before the work.
    pub(in crate::limit) before: f64,
    /// The loss of each request beyond the cores.
    pub(in crate::limit) thrash: f64,
    pub(in crate::limit) deadline: Seconds,
    /// Requests a second.
    pub(in crate::limit) capacity: f64,
}

/// 16 workers of 40 ms; 10 of 5 or 200 ms; lognormal ones; 4 cores; 45 ms of waiting and 2 cores; 4 cores that thrash.
pub(in crate::limit) const WORKLOADS: [Workload; 6] = {
    let workers = Workload {
        name: "workers",
        shares_cores: false,
        servers: 16.0,
        work: Work::Exponential(0.04),
        before: 0.0,
        thrash: 0.0,
        deadline: 1.0,
        capacity: 400.0,
    };
    let cores = Workload {
        name: "cores",
        shares_cores: true,
        servers: 4.0,
        work: Work::Exponential(0.01),
        deadline: 0.25,
        ..workers
    };
    [
        workers,
        Workload {
            name: "bimodal",
            servers: 10.0,
            work: Work::Bimodal,
            capacity: 10.0 / 0.0245,
            ..workers
        },
        Workload {
            name: "lognormal",
            work: Work::LogNormal {
                mean: 0.04,
                sigma: 1.2,
            },
            ..workers
        },
        cores,
        Workload {
            name: "mixed",
            servers: 2.0,
            work: Work::Exponential(0.005),
            before: 0.045,
            deadline: 0.5,
            ..cores
        },
        Workload {
            name: "thrashing",
            thrash: 0.01,
            ..cores
        },
    ]
};
