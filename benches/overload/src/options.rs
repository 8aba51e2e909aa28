//! The command line.

use std::path::PathBuf;

use crate::{
    case::{Backend, Variant},
    plan::Plan,
};

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) plan: Plan,
    pub(crate) results: Option<PathBuf>,
    pub(crate) plots: Option<PathBuf>,
    pub(crate) only_plan: bool,
    pub(crate) only_report: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            plan: Plan {
                full: false,
                grpc: false,
                seeds: Vec::new(),
                seconds: None,
                backends: Vec::new(),
                variants: Vec::new(),
                scenarios: Vec::new(),
                percents: Vec::new(),
            },
            results: None,
            plots: None,
            only_plan: false,
            only_report: false,
        };
        let plan = &mut options.plan;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--full" => plan.full = true,
                "--grpc" => plan.grpc = true,
                "--plan" => options.only_plan = true,
                "--report" => options.only_report = true,
                "--backend" => plan.backends = words(value()?),
                "--variant" => plan.variants = words(value()?),
                "--scenario" => plan.scenarios = words(value()?),
                "--load" => {
                    let loads = words(value()?);
                    plan.percents = loads
                        .iter()
                        .map(|load| percent(load))
                        .collect::<Result<_, _>>()?;
                }
                "--seed" => plan.seeds = vec![number(value()?)?],
                "--seeds" => plan.seeds = (1..=number(value()?)?).collect(),
                "--seconds" => plan.seconds = Some(number(value()?)?),
                "--results" => options.results = Some(value()?.into()),
                "--plots" => options.plots = Some(value()?.into()),
                unknown => {
                    return Err(format!(
                        "unknown option {unknown}; see the top of benches/overload/src/main.rs"
                    ));
                }
            }
        }
        if plan.seeds.is_empty() {
            plan.seeds = if plan.full { vec![1, 2, 3] } else { vec![1] };
        }
        known(&plan.backends, &Backend::ALL.map(Backend::name))?;
        known(&plan.variants, &Variant::ALL.map(Variant::name))?;
        Ok(options)
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

fn number(word: &str) -> Result<u64, String> {
    let number = word
        .parse()
        .ok()
        .filter(|number| (1..=3_600).contains(number));
    number.ok_or_else(|| format!("{word} is not a number from 1 to 3600"))
}

fn percent(load: &str) -> Result<u32, String> {
    let load = load
        .parse::<f64>()
        .ok()
        .filter(|load| (0.01..=100.0).contains(load));
    let percent = load.map(|load| (load * 100.0).round() as u32);
    percent.ok_or_else(|| "a load is a multiple of the capacity, such as 0.8 or 2".to_owned())
}

fn known(words: &[String], names: &[&str]) -> Result<(), String> {
    match words.iter().find(|word| !names.contains(&word.as_str())) {
        Some(unknown) => Err(format!("{unknown} is none of {}", names.join(", "))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments)
    }

    #[test]
    fn options_are_read() {
        let options =
            parse("--load 0.8,2 --variant no-limit,load_shed --seeds 2 --results r.jsonl --plan")
                .unwrap();
        assert_eq!(options.plan.percents, [80, 200]);
        assert_eq!(options.plan.variants, ["no-limit", "load_shed"]);
        assert_eq!(options.plan.seeds, [1, 2]);
        assert!(options.only_plan && !options.plan.full);
        assert_eq!(parse("--full").unwrap().plan.seeds, [1, 2, 3]);
        assert_eq!(parse("--full --seed 7").unwrap().plan.seeds, [7]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("--fast").unwrap_err().contains("--fast"));
        assert!(parse("--load much").unwrap_err().contains("0.8"));
        assert!(parse("--variant mine").unwrap_err().contains("tower-tuned"));
        assert!(parse("--seconds 0").unwrap_err().contains("from 1"));
        assert!(parse("--load").unwrap_err().contains("needs a value"));
    }
}
