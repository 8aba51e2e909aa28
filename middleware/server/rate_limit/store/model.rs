//! The store under thousands of schedules of its threads: every hold of a lock may be the moment when another one runs.

use std::{num::NonZeroUsize, sync::Arc, time::Instant};

use shuttle::thread;

use super::{Ask, Decision, Memory};
use crate::{
    clock,
    server::rate_limit::{gcra::Nanos, tier::Tier},
};

const SCHEDULES: usize = 2_000;
const SECOND: Nanos = 1_000_000_000;

fn store(max_keys: usize, quotas: &str) -> Arc<Memory> {
    let max_keys = NonZeroUsize::new(max_keys).expect("above 0");
    Arc::new(Memory::new(max_keys, &[tier(quotas)], epoch()))
}

fn tier(quotas: &str) -> Tier {
    Tier::new("default", quotas.parse().expect("quotas"))
}

fn epoch() -> Instant {
    clock::now()
}

fn ask(who: u64) -> Ask {
    Ask {
        who,
        tier: 0,
        weight: 1,
        dry_run: false,
        tell: false,
    }
}

/// How many of so many calls are admitted, and how many found no room.
fn admitted(memory: &Memory, who: u64, calls: u32, now: Nanos) -> (u32, u32) {
    let (mut admitted, mut homeless) = (0, 0);
    for _ in 0..calls {
        let mut overflowed = false;
        let decision = memory.decide(&ask(who), now, || None, &mut overflowed);
        admitted += u32::from(matches!(decision, Decision::Admitted));
        homeless += u32::from(overflowed);
    }
    (admitted, homeless)
}

/// The sums of what threads return.
fn sums(threads: Vec<thread::JoinHandle<(u32, u32)>>) -> (u32, u32) {
    let ended = threads.into_iter().map(|thread| thread.join());
    ended.fold((0, 0), |sum, one| {
        let one = one.expect("no panic");
        (sum.0 + one.0, sum.1 + one.1)
    })
}

#[test]
fn a_caller_on_many_threads_has_exactly_its_burst() {
    let check = || {
        let memory = store(100, "5/s and 7/h");
        let threads = (0..3).map(|_| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let first = admitted(&memory, 1, 3, SECOND);
                let second = admitted(&memory, 1, 2, SECOND);
                (first.0 + second.0, first.1 + second.1)
            })
        });
        assert_eq!(sums(threads.collect()), (5, 0));
        let [(_, tally)] = memory.tallies()[..] else {
            panic!("one tier");
        };
        assert_eq!((tally.admitted, tally.rejected), (5, 10));
    };
    shuttle::check_random(check, SCHEDULES);
    shuttle::check_pct(check, SCHEDULES, 3);
}

#[test]
fn past_the_cap_all_threads_share_one_quota_and_nobody_is_forgotten() {
    let check = || {
        let memory = store(2, "2/h");
        assert_eq!(admitted(&memory, 1, 3, SECOND).0, 2);
        let threads = (0..3).map(|place: u64| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let (some, homeless) = admitted(&memory, (place + 2) << 50, 1, SECOND);
                memory.keys(clock::now());
                let (more, again) = admitted(&memory, 1, 1, SECOND);
                assert_eq!((more, again), (0, 0), "a limited caller is limited still");
                (some, homeless)
            })
        });
        // One finds the place that is left, the others share 2; a bucket may be full before the table is.
        let (some, homeless) = sums(threads.collect());
        assert!((2..=3).contains(&homeless), "{homeless}");
        assert_eq!(some, (3 - homeless) + homeless.min(2));
        assert!(memory.keys(clock::now()) <= 2);
    };
    shuttle::check_random(check, SCHEDULES);
    shuttle::check_pct(check, SCHEDULES, 3);
}

#[test]
fn a_quota_that_changes_meanwhile_gives_nothing_back() {
    let check = || {
        let memory = store(100, "3/h");
        let calls = Arc::clone(&memory);
        let caller = thread::spawn(move || admitted(&calls, 1, 6, SECOND));
        let changes = Arc::clone(&memory);
        let operator = thread::spawn(move || {
            changes.set_tier(0, &tier("6/h"));
            changes.charge(1, 0, 1, epoch());
            (0, 0)
        });
        let (admitted, homeless) = sums(vec![caller, operator]);
        // The bursts of an hour: 3 of 20 minutes each, or 6 of 10.
        assert!((2..=6).contains(&admitted) && homeless == 0, "{admitted}");
    };
    shuttle::check_random(check, SCHEDULES);
}
