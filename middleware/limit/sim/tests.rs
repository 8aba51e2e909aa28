//! The limit holds what it was designed for: bars below are the design's own simulation less 0.02.

use std::cell::Cell;

use super::{Fault, Outcome, Scenario, WORKLOADS, Work, Workload, run};

const SEEDS: [u64; 2] = [11, 12];

fn steady(load: Workload, times: f64, seed: u64) -> Outcome {
    run(&Scenario {
        load,
        times,
        end: 60.0,
        fault: None,
        sheds: false,
        seed,
    })
}

/// Means over all workloads and seeds.
fn mean_of(loads: &[Workload], seeds: &[u64], value: impl Fn(Workload, u64) -> f64) -> f64 {
    let pairs = loads
        .iter()
        .flat_map(|load| seeds.iter().map(move |seed| (*load, *seed)));
    let values: Vec<f64> = pairs.map(|(load, seed)| value(load, seed)).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn goodput(times: f64) -> f64 {
    mean_of(&WORKLOADS, &SEEDS, |load, seed| {
        let goodput = steady(load, times, seed).goodput(20.0, 59.0);
        assert!(goodput > 0.94, "{} at {times}: {goodput:.3}", load.name);
        goodput
    })
}

#[test]
fn goodput_at_twice_the_capacity() {
    let goodput = goodput(2.0);
    assert!(goodput > 0.98 - 0.02, "{goodput:.3}");
}

/// What admitted callers wait for, queue included.
#[test]
fn the_slowest_hundredth_is_not_much_slower_at_twice_the_capacity() {
    let ratio = mean_of(&WORKLOADS, &SEEDS, |load, seed| {
        let p99 = |times| steady(load, times, seed).p99(20.0, 59.0);
        p99(2.0) / p99(0.3)
    });
    assert!(ratio < 2.1 + 0.3, "{ratio:.2}");
}

#[test]
fn goodput_at_five_times_the_capacity() {
    let goodput = goodput(5.0);
    assert!(goodput > 0.99 - 0.02, "{goodput:.3}");
}

#[test]
fn goodput_at_ten_times_the_capacity() {
    let goodput = mean_of(&WORKLOADS, &SEEDS[..1], |load, seed| {
        steady(load, 10.0, seed).goodput(20.0, 59.0)
    });
    assert!(goodput > 0.99 - 0.02, "{goodput:.3}");
}

#[test]
fn almost_nobody_is_rejected_below_the_capacity() {
    for (times, most, worst) in [(0.5, 0.0005, 0.001), (0.8, 0.005, 0.02), (0.9, 0.02, 0.04)] {
        let rejected = mean_of(&WORKLOADS, &SEEDS, |load, seed| {
            let rejected = steady(load, times, seed).rejected(20.0, 59.0);
            assert!(rejected < worst, "{} at {times}: {rejected:.4}", load.name);
            rejected
        });
        assert!(rejected < most, "at {times}: {rejected:.4}");
    }
}

/// What comes out while the fault lasts, in its first 5 s, and in 5 s after it; the worst run of the first.
fn faulty(fault: Fault) -> [f64; 4] {
    let mut worst = 1.0_f64;
    let mut sums = [0.0; 3];
    let mut runs = 0.0;
    for load in WORKLOADS {
        for times in [0.7, 2.0] {
            for seed in 21..27 {
                let outcome = run(&Scenario {
                    load,
                    times,
                    end: 90.0,
                    fault: Some((fault, 50.0, 80.0)),
                    sheds: false,
                    seed,
                });
                let during = outcome.goodput_out(50.0, 80.0, 0.25);
                worst = worst.min(during);
                sums[0] += during;
                sums[1] += outcome.goodput_out(50.0, 55.0, 0.25);
                sums[2] += outcome.goodput_out(82.0, 87.0, 1.0);
                runs += 1.0;
            }
        }
    }
    [sums[0] / runs, sums[1] / runs, sums[2] / runs, worst]
}

#[test]
fn a_quarter_of_the_capacity_is_used() {
    let [during, first, after, worst] = faulty(Fault::QuarterCapacity);
    let told = format!("{during:.3} {first:.3} {after:.3} {worst:.3}");
    assert!(during > 0.978 - 0.02 && first > 0.953 - 0.02, "{told}");
    assert!(after > 0.9 && worst > 0.75, "{told}");
}

#[test]
fn services_four_times_slower_are_used() {
    let [during, first, after, worst] = faulty(Fault::FourTimesSlower);
    let told = format!("{during:.3} {first:.3} {after:.3} {worst:.3}");
    assert!(during > 0.930 - 0.02 && first > 0.878 - 0.02, "{told}");
    assert!(after > 0.9 && worst > 0.6, "{told}");
}

/// What comes out while calls hang, in the first 5 s of that, and in 3 s after it; the worst run of the first.
fn hanging(share: f64, time: f64, seeds: &[u64]) -> [f64; 4] {
    let short = Workload {
        name: "short",
        work: Work::Exponential(0.02),
        capacity: 800.0,
        ..WORKLOADS[0]
    };
    let loads = [[short].as_slice(), &WORKLOADS].concat();
    let mut worst = 1.0_f64;
    let mut sums = [0.0; 3];
    let mut runs = 0.0;
    for times in [0.7, 0.9, 2.0] {
        for load in &loads {
            for &seed in seeds {
                let outcome = run(&Scenario {
                    load: *load,
                    times,
                    end: 60.0,
                    fault: Some((Fault::Hangs(share, time), 25.0, 50.0)),
                    sheds: false,
                    seed,
                });
                let during = outcome.goodput_out(25.0, 50.0, 1.0);
                worst = worst.min(during);
                sums[0] += during;
                sums[1] += outcome.goodput_out(25.0, 30.0, 1.0);
                sums[2] += outcome.goodput_out(50.0, 53.0, 1.0);
                runs += 1.0;
            }
        }
    }
    [sums[0] / runs, sums[1] / runs, sums[2] / runs, worst]
}

#[test]
fn calls_that_hang_do_not_take_the_limit_with_them() {
    for (share, time, mean, least) in [
        (0.01, 2.0, 0.97, 0.9),
        (0.01, 10.0, 0.97, 0.88),
        (0.03, 2.0, 0.93, 0.75),
    ] {
        let [during, first, after, worst] = hanging(share, time, &[31, 32, 33]);
        let told = format!("{share} for {time}: {during:.3} {first:.3} {after:.3} {worst:.3}");
        assert!(during > mean && first > mean - 0.01, "{told}");
        assert!(after > 0.96 && worst > least, "{told}");
    }
}

/// Five seeds of each workload, 1,000 with `PLIMSOLL_LONG=1`: of those 0.5 % have less than 0.8 of the capacity in the four
/// seconds that are looked at.
#[test]
fn after_10_s_in_which_everybody_hangs_up_all_is_as_before() {
    let long = std::env::var("PLIMSOLL_LONG").is_ok_and(|long| long == "1");
    let seeds = if long { 1_000 } else { 5 };
    let low = Cell::new(0);
    let goodput = mean_of(&WORKLOADS, &Vec::from_iter(41..41 + seeds), |load, seed| {
        let outcome = run(&Scenario {
            load,
            times: 1.5,
            end: 35.0,
            fault: Some((Fault::Cancels, 10.0, 20.0)),
            sheds: false,
            seed,
        });
        let goodput = outcome.goodput_out(30.0, 34.0, 1.0);
        low.set(low.get() + u64::from(goodput < 0.8));
        goodput
    });
    let low = low.get();
    assert!(
        goodput > 0.95 && low <= seeds * 6 / 100,
        "{goodput:.3} {low}"
    );
}

#[test]
fn the_highest_priority_is_answered() {
    for (times, expected) in [(2.0, [1.0, 0.88, 0.06]), (5.0, [0.93, 0.04, 0.0])] {
        let outcome = steady(WORKLOADS[0], times, 11);
        for (class, expected) in expected.into_iter().enumerate() {
            let answered = outcome.answered(class, 20.0, 59.0);
            let off = (answered - expected).abs();
            assert!(off < 0.02, "class {class} at {times}: {answered:.3}");
        }
    }
}

/// A limit has to be found that is neither reached by bursts nor a queue: 28 of 16 workers would do, 24 would reject 1 and
/// 3.5 %.
#[test]
fn where_nobody_waits_the_limit_leaves_room_for_bursts() {
    for (times, most) in [(0.5, 0.0005), (0.8, 0.005), (0.9, 0.02)] {
        let rejected = mean_of(&WORKLOADS[..1], &[11, 12, 13, 14], |load, seed| {
            let outcome = run(&Scenario {
                load,
                times,
                end: 60.0,
                fault: None,
                sheds: true,
                seed,
            });
            outcome.rejected(20.0, 59.0)
        });
        assert!(rejected < most, "at {times}: {rejected:.4}");
    }
}

#[test]
fn where_nobody_waits_too_the_highest_priority_is_answered() {
    let outcome = run(&Scenario {
        load: WORKLOADS[0],
        times: 2.0,
        end: 60.0,
        fault: None,
        sheds: true,
        seed: 11,
    });
    assert!(outcome.goodput(20.0, 59.0) > 0.95);
    assert!(outcome.answered(0, 20.0, 59.0) > 0.97);
    assert!(outcome.answered(2, 20.0, 59.0) < 0.3);
}
