//! Prints the table of costs.

use super::{
    Case,
    measure::{self, Counts, HeapUse},
};

/// Measures the cases whose name contains one of `wanted` (all if it is empty), and their bases.
pub(crate) fn print(all: &[&Case], wanted: &[String], rounds: usize) -> Result<(), String> {
    let is_wanted = |case: &Case| {
        wanted.is_empty() || wanted.iter().any(|part| case.name.contains(part.as_str()))
    };
    let is_base = |name: &str| {
        let mut chosen = all.iter().filter(|case| is_wanted(case));
        chosen.any(|case| case.base == Some(name))
    };
    let cases: Vec<&Case> = all
        .iter()
        .copied()
        .filter(|case| is_wanted(case) || is_base(case.name))
        .collect();
    if cases.is_empty() {
        return Err(format!("no case is called {wanted:?}"));
    }

    let with_instructions = measure::valgrind_is_here();
    if !with_instructions {
        eprintln!("valgrind is not installed: no instructions");
    }
    let mut counts = Vec::new();
    for case in &cases {
        eprintln!("counting {}", case.name);
        counts.push(measure::counts(case, with_instructions)?);
    }
    eprintln!("timing {} cases in {rounds} rounds", cases.len());
    let times = measure::rounds(&cases, rounds)?;

    println!(
        "| case | over | ns | Δ ns | ratio | allocs | Δ allocs | instructions | Δ instructions |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    for (at, case) in cases.iter().enumerate() {
        let base = case
            .base
            .and_then(|name| cases.iter().position(|other| other.name == name));
        let base = base.map(|base| (&times[base][..], counts[base]));
        println!("{}", row(case, &times[at], counts[at], base));
    }
    Ok(())
}

fn row(case: &Case, times: &[f64], counts: Counts, base: Option<(&[f64], Counts)>) -> String {
    let name = case.name;
    let over = case.base.unwrap_or("–");
    let nanoseconds = number(measure::median(times.iter().copied()));
    let allocs = heap_use(counts.heap);
    let instructions = counts.instructions.map_or("–".to_owned(), number);
    let Some((base_times, base_counts)) = base else {
        return format!(
            "| {name} | – | {nanoseconds} | – | – | {allocs} | – | {instructions} | – |"
        );
    };

    let pairs = || times.iter().zip(base_times);
    let more = signed(measure::median(pairs().map(|(own, base)| own - base)));
    let ratio = measure::median(pairs().map(|(own, base)| own / base));
    let more_allocs = signed(counts.heap.new - base_counts.heap.new);
    let more_instructions = counts
        .instructions
        .zip(base_counts.instructions)
        .map_or("–".to_owned(), |(own, base)| signed(own - base));
    format!(
        "| {name} | {over} | {nanoseconds} | {more} | ×{ratio:.2} | {allocs} | {more_allocs} | {instructions} | {more_instructions} |"
    )
}

fn heap_use(heap: HeapUse) -> String {
    let new = allocations(heap.new);
    match allocations(heap.resized) {
        none if none == "0" => new,
        resized => format!("{new} + {resized} re"),
    }
}

/// Whole where it is whole, else one digit: buffers that grow once in a long while are no cost.
fn allocations(per_call: f64) -> String {
    let tenths = (per_call * 10.0).round() / 10.0;
    format!("{tenths}")
}

fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{}", number(value.abs()))
}

/// With commas between the thousands; small numbers with one digit after the point.
pub(crate) fn number(value: f64) -> String {
    if value < 99.95 && value.fract() != 0.0 {
        return allocations(value);
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
