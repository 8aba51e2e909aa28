//! The control before a simulated worker whose handlers never yield, in virtual time: requests lie in the sockets until
//! it reads them, and to refuse one costs it something too.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::control::Control;
use crate::{clock, context::Priority, limit::sim::Dice};

/// What answers later is worth nothing.
const DEADLINE: Duration = Duration::from_millis(250);
const END: Duration = Duration::from_secs(60);
/// What is found out at first does not count.
const WARM_UP: Duration = Duration::from_secs(5);

struct Scenario {
    /// What a call and its refusal keep the worker.
    call: Duration,
    refusal: Duration,
    /// Offered load, as a multiple of what the worker could do.
    times: f64,
    /// Something else keeps the worker for so long, each time after it has been free for so long.
    other: Option<(Duration, Duration)>,
    /// How many requests a read takes at most, as with HTTP/2: they are called one after another.
    batch: usize,
    seed: u64,
}

struct Outcome {
    /// Served in time, as a share of what was offered, or of what was possible if that is less.
    goodput: f64,
    p99: Duration,
    refused: f64,
}

fn run(scenario: &Scenario) -> Outcome {
    let origin = clock::now();
    let mut dice = Dice::new(scenario.seed);
    let mut control = Control::new(origin);
    let gap = scenario.call.as_secs_f64() / scenario.times;
    let draw = |dice: &mut Dice| Duration::from_secs_f64(-gap * (1.0 - dice.roll()).ln());
    let mut arrival = origin + draw(&mut dice);
    let mut sockets: VecDeque<Instant> = VecDeque::new();
    let mut read: VecDeque<Instant> = VecDeque::new();
    let mut now = origin;
    let mut free_until = scenario.other.map(|(_, free)| origin + free);
    let (mut offered, mut good, mut refused) = (0_u32, 0_u32, 0_u32);
    let mut latencies = Vec::new();
    while now < origin + END {
        if let (Some(until), Some((busy, free))) = (free_until, scenario.other)
            && now >= until
        {
            now += busy;
            free_until = Some(now + free);
        }
        while arrival <= now {
            sockets.push_back(arrival);
            arrival += draw(&mut dice);
        }
        if read.is_empty()
            && let Some(first) = sockets.front()
        {
            // Only the first of what a wake-up brings is timed.
            control.read(now - *first, now);
            read.extend(sockets.drain(..scenario.batch.min(sockets.len())));
        }
        let Some(came) = read.pop_front() else {
            now = free_until
                .map_or(arrival, |until| arrival.min(until))
                .max(now);
            continue;
        };
        let is_in = control.admits(Priority::Normal, now, dice.roll());
        let took = if is_in {
            scenario.call
        } else {
            scenario.refusal
        };
        now += took;
        control.polled(took);
        if came < origin + WARM_UP {
            continue;
        }
        offered += 1;
        if is_in {
            latencies.push(now - came);
            good += u32::from(now - came <= DEADLINE);
        } else {
            refused += 1;
        }
    }
    latencies.sort();
    let cost = scenario.refusal.as_secs_f64() / scenario.call.as_secs_f64();
    let possible = if scenario.times > 1.0 {
        (1.0 - scenario.times * cost) / (1.0 - cost) / scenario.times
    } else {
        1.0
    };
    // What never left the sockets was offered too.
    let offered = f64::from(offered) + (sockets.len() + read.len()) as f64;
    Outcome {
        goodput: f64::from(good) / offered / possible,
        p99: latencies
            .get(latencies.len() * 99 / 100)
            .copied()
            .unwrap_or_default(),
        refused: f64::from(refused) / offered,
    }
}

/// 2.5 ms of computing, of which a refusal costs 2 %.
fn inline(times: f64, batch: usize, seed: u64) -> Outcome {
    run(&Scenario {
        call: Duration::from_micros(2_500),
        refusal: Duration::from_micros(50),
        times,
        other: None,
        batch,
        seed,
    })
}

#[test]
fn handlers_that_never_yield_do_what_refusing_leaves_possible() {
    for (times, least) in [(1.2, 0.9), (2.0, 0.9), (5.0, 0.88), (10.0, 0.85)] {
        for seed in [11, 12, 13] {
            let Outcome { goodput, p99, .. } = inline(times, 1, seed);
            assert!(goodput > least, "{goodput:.3} at {times}");
            assert!(p99 < Duration::from_millis(200), "{p99:?} at {times}");
        }
    }
}

/// All requests that have come are read at once. At ten times the capacity some come too late.
#[test]
fn many_calls_on_one_connection_are_refused_too() {
    for times in [2.0, 5.0] {
        for seed in [11, 12, 13] {
            let Outcome { goodput, p99, .. } = inline(times, 512, seed);
            assert!(goodput > 0.85, "{goodput:.3} at {times}");
            assert!(p99 < DEADLINE, "{p99:?} at {times}");
        }
    }
}

#[test]
fn below_the_capacity_hardly_anybody_is_refused() {
    for (times, most) in [(0.5, 0.001), (0.8, 0.01), (0.9, 0.04)] {
        for seed in [11, 12, 13] {
            let Outcome { refused, .. } = inline(times, 1, seed);
            assert!(refused < most, "{refused:.4} at {times}");
        }
    }
}

/// Something computes for 60 ms whenever it has let the worker go for 20 ms. The calls need a tenth of what is left; nine
/// tenths of them would be refused for it if it were not doubted.
#[test]
fn a_delay_that_refusing_does_not_help_is_borne() {
    for seed in [11, 12, 13] {
        let Outcome { refused, p99, .. } = run(&Scenario {
            call: Duration::from_micros(500),
            refusal: Duration::from_micros(10),
            times: 0.025,
            other: Some((Duration::from_millis(60), Duration::from_millis(20))),
            batch: 1,
            seed,
        });
        assert!(refused < 0.3, "{refused:.3}");
        assert!(p99 < Duration::from_millis(100), "{p99:?}");
    }
}

/// So far above the capacity that the most that may be refused is not enough for long, doubts must not cost much.
#[test]
fn doubts_cost_little_where_the_calls_are_the_cause() {
    for seed in [11, 12, 13] {
        let outcome = run(&Scenario {
            call: Duration::from_micros(2_500),
            refusal: Duration::from_micros(5),
            times: 40.0,
            other: None,
            batch: 1,
            seed,
        });
        assert!(outcome.goodput > 0.8, "{:.3}", outcome.goodput);
    }
}
