//! What the figures are made of: medians over seeds, the peak, the cost of a rejection.

use crate::{
    case::{Backend, Protocol, Scenario, Variant},
    run::Row,
};

/// Rows of one protocol, with medians over their seeds.
pub(super) struct Results<'a> {
    pub(super) rows: &'a [Row],
    pub(super) protocol: Protocol,
}

/// Which rows.
#[derive(Clone, Copy)]
pub(super) struct Which {
    pub(super) backend: Backend,
    pub(super) scenario: Scenario,
    pub(super) variant: Variant,
    pub(super) percent: u32,
}

impl Results<'_> {
    /// The median over the seeds of what is measured; `None` if there is no run that counts.
    pub(super) fn median(&self, which: Which, value: impl Fn(&Row) -> f64) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| {
            row.case.protocol == self.protocol && which.is(row) && row.void().is_none()
        });
        let mut values: Vec<f64> = rows.map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let above = *values.get(middle)?;
        let below = values[(values.len() - 1) / 2];
        Some(f64::midpoint(above, below))
    }

    /// Calls a second that the backend can do, as seen near its capacity. A core does as much in one go as in slices.
    pub(super) fn peak(&self, backend: Backend) -> Option<f64> {
        let backends = match backend {
            Backend::Yield | Backend::Inline => vec![Backend::Yield, Backend::Inline],
            other => vec![other],
        };
        let cases = backends.into_iter().flat_map(|backend| {
            let variants = [Variant::NoLimit, Variant::TowerTuned];
            let of = move |variant| {
                [90, 100, 110].map(|percent| Which::steady(backend, variant, percent))
            };
            variants.into_iter().flat_map(of)
        });
        cases
            .filter_map(|which| self.median(which, |row| row.all.goodput()))
            .reduce(f64::max)
    }

    pub(super) fn unloaded_p99(&self, backend: Backend) -> Option<f64> {
        self.median(Which::steady(backend, Variant::NoLimit, 50), |row| {
            row.all.p99_ms
        })
    }

    /// Processor time for a rejection, in seconds: what ten times the load takes more than about the capacity.
    pub(super) fn rejection(&self, variant: Variant) -> Option<f64> {
        let which = |percent| Which::steady(Backend::Semaphore, variant, percent);
        let cpu = |percent| self.median(which(percent), |row| row.server_cpu / row.all.seconds);
        let rejected = self.median(which(1_000), |row| {
            row.all.rejected as f64 / row.all.seconds
        })?;
        let served = |percent| {
            self.median(which(percent), |row| {
                (row.all.in_time + row.all.late) as f64 / row.all.seconds
            })
        };
        let of_served = if variant == Variant::Bare503 {
            0.0
        } else {
            let near = [100, 90, 80]
                .into_iter()
                .find(|percent| cpu(*percent).is_some())?;
            cpu(near)? / served(near)? * served(1_000)?
        };
        (rejected > 0.0).then_some((cpu(1_000)? - of_served) / rejected)
    }

    /// What rejecting leaves possible at a load, as a share of the peak.
    pub(super) fn possible(&self, backend: Backend, layer: Variant, percent: u32) -> Option<f64> {
        if backend == Backend::Semaphore {
            return Some(1.0);
        }
        let share = self.rejection(layer)? / backend.mean_service().as_secs_f64();
        Some((1.0 - share * f64::from(percent) / 100.0) / (1.0 - share))
    }
}

impl Which {
    pub(super) fn steady(backend: Backend, variant: Variant, percent: u32) -> Self {
        Self {
            backend,
            scenario: Scenario::Steady,
            variant,
            percent,
        }
    }

    fn is(&self, row: &Row) -> bool {
        let case = &row.case;
        case.backend == self.backend
            && case.scenario == self.scenario
            && case.variant == self.variant
            && case.percent == self.percent
    }
}
