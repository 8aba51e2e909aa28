//! The figures that decide, and whether they are met.

mod results;

use crate::{
    account::Tally,
    case::{Backend, Protocol, Scenario, Variant},
    run::Row,
};
use results::{Results, Which};

/// What a service of 2.5 ms may spend on a rejection, and what a rejection may cost more than a bare 503.
const REJECTION_SHARE: f64 = 0.02;
const REJECTION_RATIO: f64 = 1.3;
/// Goodputs that differ by less are equal.
const EQUAL: f64 = 0.02;

/// A line of the table.
struct Figure {
    what: String,
    bar: String,
    measured: String,
    met: bool,
}

/// All figures for which there are runs, as a table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut figures = Vec::new();
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let results = Results { rows, protocol };
        for layer in Variant::OURS {
            figures.extend(results.goodput(layer));
            figures.extend(results.waits(layer));
            figures.extend(results.false_rejections(layer));
            figures.extend(results.drops(layer));
            figures.extend(results.priorities(layer));
            figures.extend(results.rejections(layer));
            figures.extend(results.hints(layer));
            figures.extend(results.against_peers(layer));
        }
    }
    if figures.is_empty() {
        return "No figure can be told from these runs.".to_owned();
    }
    let mut text = "| figure | bar | measured | |\n|---|---|---|---|\n".to_owned();
    for Figure {
        what,
        bar,
        measured,
        met,
    } in figures
    {
        let met = if met { "met" } else { "missed" };
        text += &format!("| {what} | {bar} | {measured} | {met} |\n");
    }
    let void = rows.iter().filter(|row| row.void().is_some()).count();
    if void > 0 {
        text += &format!(
            "\n{void} of {} runs are void and are left out.\n",
            rows.len()
        );
    }
    text
}

impl Results<'_> {
    fn goodput(&self, layer: Variant) -> Vec<Figure> {
        let bars = [
            (
                Backend::Semaphore,
                [(200, 0.95), (500, 0.95), (1_000, 0.93)].as_slice(),
            ),
            (Backend::Yield, &[(200, 0.9), (500, 0.85)]),
            (Backend::Inline, &[(200, 0.9), (500, 0.88), (1_000, 0.85)]),
        ];
        let bars = bars
            .into_iter()
            .flat_map(|(backend, bars)| bars.iter().map(move |bar| (backend, *bar)));
        bars.filter_map(|(backend, (percent, bar))| {
            let goodput = self.median(Which::steady(backend, layer, percent), |row| {
                row.all.goodput()
            })?;
            let possible = self.peak(backend)? * self.possible(backend, layer, percent)?;
            Some(at_least(
                format!(
                    "{}: goodput of {} at {}x, of what is possible",
                    self.name(layer),
                    backend.name(),
                    load(percent)
                ),
                bar,
                goodput / possible,
            ))
        })
        .collect()
    }

    fn waits(&self, layer: Variant) -> Vec<Figure> {
        let ratios = [
            (Backend::Semaphore, 200, 2.0),
            (Backend::Semaphore, 1_000, 2.0),
            (Backend::Yield, 200, 4.0),
        ];
        let ratios = ratios.into_iter().filter_map(|(backend, percent, bar)| {
            let p99 = self.median(Which::steady(backend, layer, percent), |row| row.all.p99_ms)?;
            let what = format!(
                "{}: p99 of {} at {}x, of unloaded",
                self.name(layer),
                backend.name(),
                load(percent)
            );
            Some(at_most(what, bar, p99 / self.unloaded_p99(backend)?, ""))
        });
        let inline = [200, 500, 1_000].into_iter().filter_map(|percent| {
            let p99 = self.median(Which::steady(Backend::Inline, layer, percent), |row| {
                row.all.p99_ms
            })?;
            let what = format!("{}: p99 of inline at {}x", self.name(layer), load(percent));
            Some(at_most(what, 200.0, p99, " ms"))
        });
        ratios.chain(inline).collect()
    }

    fn false_rejections(&self, layer: Variant) -> Vec<Figure> {
        let bars = [(50, 0.05), (80, 0.5), (90, 2.0)];
        let figures = bars.into_iter().filter_map(|(percent, bar)| {
            let which = Which::steady(Backend::Semaphore, layer, percent);
            let share = self.median(which, |row| row.all.rejected_share())?;
            let what = format!("{}: rejected at {}x", self.name(layer), load(percent));
            Some(at_most(what, bar, share * 100.0, " %"))
        });
        figures.collect()
    }

    fn drops(&self, layer: Variant) -> Vec<Figure> {
        let mut figures = Vec::new();
        let scenarios = [Scenario::QuarterCapacity, Scenario::FourTimesSlower];
        for (scenario, percent) in scenarios
            .into_iter()
            .flat_map(|scenario| [(scenario, 70), (scenario, 200)])
        {
            let which = Which {
                scenario,
                ..Which::steady(Backend::Semaphore, layer, percent)
            };
            let (Some(peak), Some(unloaded)) =
                (self.peak(which.backend), self.unloaded_p99(which.backend))
            else {
                continue;
            };
            let full = peak.min(which.backend.capacity() * f64::from(percent) / 100.0);
            let share = |part: fn(&Row) -> &Tally| {
                self.median(which, move |row| {
                    part(row).goodput() / (peak / 4.0).min(full)
                })
            };
            let Some(reduced) = share(|row| &row.reduced) else {
                continue;
            };
            let what = |what: &str| {
                format!(
                    "{}: {} at {}x: {what}",
                    self.name(layer),
                    scenario.name(),
                    load(percent)
                )
            };
            if scenario == Scenario::QuarterCapacity {
                figures.push(at_least(what("goodput of what is left"), 0.9, reduced));
                if let Some(first) = share(|row| &row.first) {
                    figures.push(at_least(what("in the first 5 s"), 0.8, first));
                }
                if let Some(p99) = self.median(which, |row| row.reduced.p99_ms) {
                    figures.push(at_most(what("p99 of unloaded"), 3.0, p99 / unloaded, ""));
                }
            } else {
                figures.push(at_least(what("goodput of what is left"), 0.8, reduced));
            }
            let back = self.median(which, |row| {
                row.recovered_after(full).unwrap_or(f64::INFINITY)
            });
            figures.extend(back.map(|back| at_most(what("back to 90 %"), 6.0, back, " s")));
        }
        figures
    }

    fn priorities(&self, layer: Variant) -> Vec<Figure> {
        let figures = [(200, 0.99), (500, 0.85)]
            .into_iter()
            .filter_map(|(percent, bar)| {
                let which = Which {
                    scenario: Scenario::Priorities,
                    ..Which::steady(Backend::Semaphore, layer, percent)
                };
                let share = self.median(which, |row| {
                    row.all.classes.first().copied().unwrap_or_default()
                })?;
                let what = format!(
                    "{}: critical calls served at {}x",
                    self.name(layer),
                    load(percent)
                );
                Some(at_least(what, bar, share))
            });
        figures.collect()
    }

    fn rejections(&self, layer: Variant) -> Vec<Figure> {
        let Some(cost) = self.rejection(layer) else {
            return Vec::new();
        };
        let name = self.name(layer);
        let share = cost / Backend::Inline.mean_service().as_secs_f64();
        let mut figures = vec![at_most(
            format!(
                "{name}: CPU per rejection ({:.1} µs), of a handler of 2.5 ms",
                cost * 1e6
            ),
            REJECTION_SHARE * 100.0,
            share * 100.0,
            " %",
        )];
        if let Some(bare) = self.rejection(Variant::Bare503) {
            let what = format!(
                "{name}: CPU per rejection, of a bare 503 ({:.1} µs)",
                bare * 1e6
            );
            figures.push(at_most(what, REJECTION_RATIO, cost / bare, ""));
        }
        figures
    }

    /// Whether callers are told when to come back.
    fn hints(&self, layer: Variant) -> Option<Figure> {
        let which = Which::steady(Backend::Semaphore, layer, 200);
        let share = self.median(which, |row| {
            row.all.hinted as f64 / row.all.rejected.max(1) as f64
        })?;
        let what = format!("{}: rejections with a retry hint", self.name(layer));
        Some(at_least(what, 1.0, share))
    }

    fn name(&self, layer: Variant) -> String {
        format!("{} {}", self.protocol.name(), layer.name())
    }

    /// The best goodput of all that nobody tuned, and less waiting than with any that is as good.
    fn against_peers(&self, layer: Variant) -> Vec<Figure> {
        let loads = [120, 200, 500, 1_000];
        let cases = Backend::ALL
            .into_iter()
            .flat_map(|backend| loads.map(|percent| (backend, percent)));
        cases
            .filter_map(|(backend, percent)| self.against(backend, layer, percent))
            .collect()
    }

    fn against(&self, backend: Backend, layer: Variant, percent: u32) -> Option<Figure> {
        let of = |variant| {
            let which = Which::steady(backend, variant, percent);
            let goodput = self.median(which, |row| row.all.goodput() / backend.capacity())?;
            let p99 = self.median(which, |row| row.all.p99_ms)?;
            Some((variant, goodput, p99))
        };
        let (_, goodput, p99) = of(layer)?;
        let peers = || {
            Variant::ALL
                .into_iter()
                .filter(|peer| peer.is_untuned_peer())
                .filter_map(of)
        };
        let (best, best_goodput, best_p99) =
            peers().max_by(|one, other| one.1.total_cmp(&other.1))?;
        let as_good =
            || peers().filter(|(_, peers, _)| *peers >= best_goodput.max(goodput) - EQUAL);
        let met = goodput >= best_goodput - EQUAL && as_good().all(|(.., peers)| p99 < peers);
        Some(Figure {
            what: format!(
                "{}: best of the untuned, {} at {}x",
                self.name(layer),
                backend.name(),
                load(percent)
            ),
            bar: "goodput within 0.02, least p99".to_owned(),
            measured: format!(
                "{goodput:.2}, {p99:.0} ms; {} {best_goodput:.2}, {best_p99:.0} ms",
                best.name()
            ),
            met,
        })
    }
}

fn at_least(what: String, bar: f64, measured: f64) -> Figure {
    Figure {
        what,
        bar: format!("≥ {bar}"),
        measured: format!("{measured:.3}"),
        met: measured >= bar,
    }
}

fn at_most(what: String, bar: f64, measured: f64, unit: &str) -> Figure {
    Figure {
        what,
        bar: format!("≤ {bar}{unit}"),
        measured: format!("{measured:.2}{unit}"),
        met: measured <= bar,
    }
}

fn load(percent: u32) -> f64 {
    f64::from(percent) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        case::{Case, tests::case},
        run::tests::ideal,
    };

    fn rows() -> Vec<Row> {
        let cases = [
            case(Variant::NoLimit, 50),
            case(Variant::NoLimit, 100),
            case(Variant::Bare503, 1_000),
            case(Variant::LittleLoadshedder, 200),
            case(Variant::BackPressure, 100),
            case(Variant::BackPressure, 200),
            case(Variant::BackPressure, 1_000),
        ];
        cases.map(ideal).to_vec()
    }

    /// So many in time, the rest of a thousand late.
    fn serve(row: &mut Row, in_time: u64) {
        row.all.in_time = in_time;
        row.all.late = 1_000 - in_time;
    }

    fn line(rows: &[Row], part: &str) -> String {
        let table = table(rows);
        let line = table.lines().find(|line| line.contains(part));
        line.unwrap_or_else(|| panic!("no {part} in\n{table}"))
            .to_owned()
    }

    #[test]
    fn goodput_refers_to_the_peak() {
        let mut rows = rows();
        let figure = "back_pressure: goodput of semaphore at 2x";
        assert!(line(&rows, figure).ends_with("| ≥ 0.95 | 1.000 | met |"));
        serve(&mut rows[5], 900);
        assert!(line(&rows, figure).ends_with("| 0.900 | missed |"));
    }

    #[test]
    fn seeds_give_medians_and_void_runs_are_left_out() {
        let mut rows = rows();
        for (seed, in_time) in [(2, 980), (3, 960), (4, 100)] {
            let mut row = rows[5].clone();
            row.case.seed = seed;
            serve(&mut row, in_time);
            row.generator_busy = if seed == 4 { 0.9 } else { 0.1 };
            rows.push(row);
        }
        assert!(line(&rows, "goodput of semaphore at 2x").contains("| 0.980 |"));
        assert!(table(&rows).ends_with("1 of 10 runs are void and are left out.\n"));
    }

    #[test]
    fn a_rejection_costs_what_ten_times_the_load_takes_more() {
        let mut rows = rows();
        // 2.5 s each: 0.1 s for 1,000 calls served; at ten times the load 0.3 s more for 9,000 rejected ones.
        rows[6].server_cpu = 0.4;
        assert!(
            line(&rows, "CPU per rejection (")
                .contains("(33.3 µs), of a handler of 2.5 ms | ≤ 2 % | 1.33 % | met")
        );
        // A bare 503 took 0.1 s for 9,000.
        assert!(line(&rows, "of a bare 503").contains("(11.1 µs) | ≤ 1.3 | 3.00 | missed"));
    }

    #[test]
    fn a_peer_that_is_as_good_must_wait_longer() {
        let mut rows = rows();
        let figure = "back_pressure: best of the untuned, semaphore at 2x";
        rows[3].all.p99_ms = 101.0;
        assert!(line(&rows, figure).ends_with("met |"));
        rows[3].all.p99_ms = 99.0;
        assert!(line(&rows, figure).ends_with("missed |"));
        serve(&mut rows[3], 900);
        assert!(
            line(&rows, figure).ends_with("| 1.00, 100 ms; little-loadshedder 0.90, 99 ms | met |")
        );
    }

    #[test]
    fn drops_are_held_against_what_is_left() {
        let mut dropped: Case = case(Variant::LoadShed, 70);
        dropped.scenario = Scenario::QuarterCapacity;
        let mut row = ideal(dropped);
        row.reduced.in_time = 225;
        row.series = vec![28; 100];
        let mut rows = rows();
        rows.push(row);
        assert!(
            line(&rows, "load_shed: quarter-capacity at 0.7x: goodput").contains("| 0.900 | met |")
        );
        assert!(
            line(&rows, "load_shed: quarter-capacity at 0.7x: back").contains("| 0.00 s | met |")
        );
    }
}
