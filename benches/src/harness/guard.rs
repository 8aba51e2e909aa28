//! Holds our layers to checked-in ceilings: allocations and instructions, which do not depend on the
//! mood of the machine. Wall time is never asserted.

use std::{collections::BTreeMap, fs};

use super::{
    Case, Whose,
    measure::{self, Counts},
};

const CEILINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ceilings.txt");

/// Instructions may exceed their ceiling by this part of it, or by [`SLACK`] if that is more:
/// compilers differ a little, and so do runs.
const MARGIN: f64 = 0.03;
const SLACK: f64 = 50.0;

/// Allocations are exact, but for a buffer that grows once in thousands of calls.
const ALLOCATION_SLACK: f64 = 0.02;

const HEADER: &str = "\
# What a call through each of our layers may cost more than the same call without it (event/*: at all):
# allocations, reallocations, instructions. `cargo run --release -p plimsoll-benches -- guard` compares
# these with what it measures; instructions may be 3 % or 50 above, allocations not at all.
# Written by `-- guard --update`; commit a higher ceiling only with a reason.
";

/// What one of our cases costs more than its base.
#[derive(Clone, Copy)]
struct Cost {
    allocations: f64,
    reallocations: f64,
    instructions: f64,
}

/// Measures our cases and compares, or writes down what it measured.
pub(crate) fn run(all: &[&Case], update: bool) -> Result<(), String> {
    if cfg!(debug_assertions) {
        return Err("ceilings hold for optimised builds: run with --release".to_owned());
    }
    if !measure::valgrind_is_here() {
        return Err("the guard counts instructions with valgrind: install it".to_owned());
    }
    let measured = measure_ours(all)?;
    if update {
        return write(&measured);
    }
    let ceilings = read()?;
    let complaints = compare(&measured, &ceilings);
    for (name, cost) in &measured {
        println!("{}", line(name, cost));
    }
    if complaints.is_empty() {
        println!("{} cases, all within their ceilings", measured.len());
        return Ok(());
    }
    Err(complaints.join("\n"))
}

fn measure_ours(all: &[&Case]) -> Result<BTreeMap<String, Cost>, String> {
    let mut counted: BTreeMap<&str, Counts> = BTreeMap::new();
    let mut ours = BTreeMap::new();
    for case in all.iter().filter(|case| case.whose == Whose::Ours) {
        let base = case
            .base
            .map(|base| -> Result<Counts, String> {
                if let Some(known) = counted.get(base) {
                    return Ok(*known);
                }
                let base = all.iter().find(|case| case.name == base);
                let base = base.expect("a base is a case too");
                let counts = measure::counts(base, true)?;
                counted.insert(base.name, counts);
                Ok(counts)
            })
            .transpose()?;
        let counts = measure::counts(case, true)?;
        ours.insert(case.name.to_owned(), cost(counts, base));
    }
    Ok(ours)
}

fn cost(counts: Counts, base: Option<Counts>) -> Cost {
    let over = |value: fn(&Counts) -> f64| value(&counts) - base.as_ref().map_or(0.0, value);
    Cost {
        allocations: over(|counts| counts.heap.new),
        reallocations: over(|counts| counts.heap.resized),
        instructions: over(|counts| counts.instructions.unwrap_or(f64::NAN)),
    }
}

/// One sentence for each thing that is wrong.
fn compare(measured: &BTreeMap<String, Cost>, ceilings: &BTreeMap<String, Cost>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, cost) in measured {
        let Some(ceiling) = ceilings.get(name) else {
            complaints.push(format!(
                "{name} has no ceiling: add one with `guard --update`"
            ));
            continue;
        };
        let instructions = ceiling.instructions + (ceiling.instructions * MARGIN).max(SLACK);
        let limits = [
            (
                "allocations",
                cost.allocations,
                ceiling.allocations + ALLOCATION_SLACK,
            ),
            (
                "reallocations",
                cost.reallocations,
                ceiling.reallocations + ALLOCATION_SLACK,
            ),
            ("instructions", cost.instructions, instructions),
        ];
        for (what, value, limit) in limits {
            if value > limit || value.is_nan() {
                complaints.push(format!(
                    "{name}: {value:.2} {what} a call, at most {limit:.2}"
                ));
            }
        }
    }
    for name in ceilings.keys() {
        if !measured.contains_key(name) {
            complaints.push(format!("{name} has a ceiling, but there is no such case"));
        }
    }
    complaints
}

fn line(name: &str, cost: &Cost) -> String {
    let Cost {
        allocations,
        reallocations,
        instructions,
    } = cost;
    format!("{name:<36} {allocations:>8.2} {reallocations:>8.2} {instructions:>10.0}")
}

fn write(measured: &BTreeMap<String, Cost>) -> Result<(), String> {
    let mut text = HEADER.to_owned();
    for (name, cost) in measured {
        text += &line(name, cost);
        text += "\n";
    }
    fs::write(CEILINGS, text).map_err(|error| format!("{CEILINGS}: {error}"))
}

fn read() -> Result<BTreeMap<String, Cost>, String> {
    let text = fs::read_to_string(CEILINGS)
        .map_err(|error| format!("{CEILINGS}: {error} (`guard --update` writes it)"))?;
    let rows = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| parse(row).ok_or_else(|| format!("{CEILINGS}: cannot read `{row}`")))
        .collect()
}

fn parse(row: &str) -> Option<(String, Cost)> {
    let mut words = row.split_whitespace();
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let cost = Cost {
        allocations: number()?,
        reallocations: number()?,
        instructions: number()?,
    };
    words.next().is_none().then_some((name, cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, allocations: f64, instructions: f64) -> BTreeMap<String, Cost> {
        let cost = Cost {
            allocations,
            reallocations: 0.0,
            instructions,
        };
        BTreeMap::from([(name.to_owned(), cost)])
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (name, cost) = parse(&line("request_id/admitted", &one("", 3.0, 2700.0)[""])).unwrap();
        assert_eq!(name, "request_id/admitted");
        assert_eq!((cost.allocations, cost.instructions), (3.0, 2700.0));
    }

    #[test]
    fn a_little_more_is_let_pass_and_too_much_is_named() {
        let ceilings = one("a/b", 3.0, 10_000.0);
        assert!(compare(&one("a/b", 3.0, 10_290.0), &ceilings).is_empty());
        assert_eq!(compare(&one("a/b", 4.0, 10_400.0), &ceilings).len(), 2);
    }

    #[test]
    fn rows_and_cases_must_match() {
        let complaints = compare(&one("a/new", 1.0, 1.0), &one("a/old", 1.0, 1.0));
        assert_eq!(complaints.len(), 2);
    }
}
