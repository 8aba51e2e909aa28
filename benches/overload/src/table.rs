//! One row for each run, as soon as it is there.

use crate::{account::Tally, case::Scenario, run::Row};

pub(crate) const HEAD: &str = "\
| run | load | seed | goodput | p50 ms | p99 ms | rejected | late | failed | offered | sent | CPU µs/call | | |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|";

/// The whole of a run; what its parts were like stands behind it.
pub(crate) fn row(row: &Row) -> String {
    let Row { case, all, .. } = row;
    let name = [
        case.protocol.name(),
        case.backend.name(),
        case.scenario.name(),
        case.variant.name(),
    ];
    let percent = |part: u64| format!("{:.2} %", 100.0 * part as f64 / all.offered.max(1) as f64);
    let cells = [
        name.join("/"),
        case.load().to_string(),
        case.seed.to_string(),
        format!("{:.3}", all.goodput() / case.backend.capacity()),
        format!("{:.0}", all.p50_ms),
        format!("{:.0}", all.p99_ms),
        percent(all.rejected),
        percent(all.late),
        percent(all.failed),
        all.offered.to_string(),
        all.sent.to_string(),
        format!("{:.0}", 1e6 * row.server_cpu / all.sent.max(1) as f64),
        parts(row),
        row.void()
            .map(|why| format!("VOID: {why}"))
            .unwrap_or_default(),
    ];
    format!("| {} |", cells.join(" | "))
}

fn parts(row: &Row) -> String {
    let goodput = |tally: &Tally| format!("{:.0}/s, p99 {:.0}", tally.goodput(), tally.p99_ms);
    match row.case.scenario {
        Scenario::QuarterCapacity | Scenario::FourTimesSlower => {
            let back = row.recovered_after(row.before.goodput());
            let back = back.map_or("never".to_owned(), |seconds| format!("{seconds:.1} s"));
            format!(
                "before {}; reduced {}; after {}; back after {back}",
                goodput(&row.before),
                goodput(&row.reduced),
                goodput(&row.after),
            )
        }
        Scenario::SlowStart => format!(
            "slow {}; then {}",
            goodput(&row.reduced),
            goodput(&row.after)
        ),
        Scenario::Priorities => {
            let shares = row.all.classes.iter().map(|share| format!("{share:.2}"));
            format!(
                "critical, normal, sheddable {}",
                shares.collect::<Vec<_>>().join(" / ")
            )
        }
        Scenario::Impatient => format!("{} connections opened anew", row.reopened),
        Scenario::Steady | Scenario::Bursts if row.all.rejected > 0 => {
            format!(
                "{:.0} % of rejections with a hint",
                100.0 * row.all.hinted as f64 / row.all.rejected as f64
            )
        }
        Scenario::Steady | Scenario::Bursts => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        case::{Variant, tests::case},
        run::tests::ideal,
    };

    #[test]
    fn a_row_has_as_many_cells_as_the_head() {
        let columns = |line: &str| line.matches('|').count();
        let written = row(&ideal(case(Variant::LoadShed, 200)));
        assert_eq!(columns(&written), columns(HEAD.lines().next().unwrap()));
        assert!(
            written.contains("| http/semaphore/steady/load_shed | 2 | 1 | 1.000 |"),
            "{written}"
        );
        assert!(written.contains("| 50.00 % |"), "{written}");
    }
}
