//! Plots of the runs, as SVG that is readable on light and on dark pages.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    case::{Backend, Case, Protocol, Scenario, Variant},
    run::Row,
};

mod svg;

use svg::{Axis, Curve, Panel};

/// Writes those plots for which there are runs.
pub(crate) fn write(rows: &[Row], folder: &Path) -> Result<(), String> {
    let goodput = |row: &Row| row.all.goodput() / row.case.backend.capacity();
    let goodput = by_load(
        rows,
        "goodput, share of capacity",
        Axis::Linear { to: 1.1 },
        goodput,
    );
    let p99 = by_load(
        rows,
        "p99 of served calls, ms",
        Axis::Logarithmic {
            from: 10.0,
            to: 10_000.0,
        },
        |row| row.all.p99_ms.max(1.0),
    );
    let drops = drops(rows);
    for (name, panels) in [("goodput", goodput), ("p99", p99), ("drop", drops)] {
        if panels.is_empty() {
            continue;
        }
        let path = folder.join(format!("overload-{name}.svg"));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, svg::draw(&panels)))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// A panel for each backend of which there are several loads.
fn by_load(rows: &[Row], what: &str, y: Axis, value: impl Fn(&Row) -> f64) -> Vec<Panel> {
    let mut panels = Vec::new();
    for protocol in [Protocol::Http, Protocol::Grpc] {
        for backend in Backend::ALL {
            let of_backend = |case: &Case| {
                case.scenario == Scenario::Steady
                    && case.backend == backend
                    && case.protocol == protocol
            };
            let here: Vec<&Row> = rows
                .iter()
                .filter(|row| {
                    row.void().is_none()
                        && of_backend(&row.case)
                        && row.case.variant != Variant::Bare503
                })
                .collect();
            let loads: BTreeSet<u32> = here.iter().map(|row| row.case.percent).collect();
            let curves: Vec<Curve> = Variant::ALL
                .into_iter()
                .map(|variant| Curve {
                    variant,
                    points: loads
                        .iter()
                        .filter_map(|load| point(&here, variant, *load, &value))
                        .collect(),
                })
                .filter(|curve| curve.points.len() > 1)
                .collect();
            if !curves.is_empty() {
                panels.push(Panel {
                    title: format!("{} over {}", backend.name(), protocol.name()),
                    y_title: what.to_owned(),
                    x_title: "offered load, multiples of the capacity",
                    x: Axis::Logarithmic {
                        from: 0.5,
                        to: 10.0,
                    },
                    y,
                    shaded: None,
                    curves,
                });
            }
        }
    }
    panels
}

/// The median over the seeds at one load.
fn point(
    rows: &[&Row],
    variant: Variant,
    percent: u32,
    value: impl Fn(&Row) -> f64,
) -> Option<(f64, f64)> {
    let rows = rows
        .iter()
        .filter(|row| row.case.variant == variant && row.case.percent == percent);
    let mut values: Vec<f64> = rows.map(|row| value(row)).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2)?;
    Some((f64::from(percent) / 100.0, *middle))
}

/// A panel for each load under which capacity was lost and came back; of several seeds the first one.
fn drops(rows: &[Row]) -> Vec<Panel> {
    let mut panels = Vec::new();
    for scenario in [
        Scenario::QuarterCapacity,
        Scenario::FourTimesSlower,
        Scenario::SlowStart,
    ] {
        for percent in [70, 200] {
            let of_panel = |row: &&Row| {
                row.void().is_none()
                    && row.case.protocol == Protocol::Http
                    && row.case.scenario == scenario
                    && row.case.percent == percent
            };
            let first = |variant| {
                rows.iter()
                    .filter(of_panel)
                    .find(|row| row.case.variant == variant)
            };
            let shown: Vec<&Row> = Variant::ALL.into_iter().filter_map(first).collect();
            let Some(case) = shown.first().map(|row| row.case) else {
                continue;
            };
            let (from, to) = case.reduced();
            panels.push(Panel {
                title: format!("{} at {} times the capacity", scenario.name(), case.load()),
                y_title: "goodput, share of capacity".to_owned(),
                x_title: "seconds",
                x: Axis::Linear {
                    to: case.length().as_secs_f64(),
                },
                y: Axis::Linear { to: 1.1 },
                shaded: Some((from.as_secs_f64(), to.as_secs_f64())),
                curves: shown.into_iter().map(over_time).collect(),
            });
        }
    }
    panels
}

/// Means of a second, twice a second.
fn over_time(row: &Row) -> Curve {
    let second = |(at, tenths): (usize, &[u32])| {
        let served = f64::from(tenths.iter().sum::<u32>());
        (at as f64 / 10.0 + 0.5, served / row.case.backend.capacity())
    };
    Curve {
        variant: row.case.variant,
        points: row
            .series
            .windows(10)
            .enumerate()
            .step_by(5)
            .map(second)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{case::tests::case, run::tests::ideal};

    #[test]
    fn a_backend_with_several_loads_gets_a_panel() {
        let rows = [
            ideal(case(Variant::NoLimit, 50)),
            ideal(case(Variant::NoLimit, 200)),
            ideal(case(Variant::LoadShed, 200)),
        ];
        let panels = by_load(&rows, "goodput", Axis::Linear { to: 1.1 }, |row| {
            row.all.goodput() / 400.0
        });
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].curves.len(), 1);
        assert_eq!(panels[0].curves[0].points, [(0.5, 0.5), (2.0, 1.0)]);
    }

    #[test]
    fn a_drop_is_shown_over_time_with_what_was_lost_shaded() {
        let mut dropped = case(Variant::BackPressure, 70);
        dropped.scenario = Scenario::QuarterCapacity;
        dropped.lengths.reduced = 2_000;
        let panels = drops(&[ideal(dropped)]);
        assert_eq!(panels[0].shaded, Some((4.0, 6.0)));
        assert_eq!(panels[0].curves[0].points[0], (0.5, 1.0));
    }
}
