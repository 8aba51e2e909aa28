//! More than there is room for, over real servers. Figures are printed; only their order of magnitude is asserted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use plimsoll::rejection::Reason;
use tracing_subscriber::{
    Layer as _, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    common::{Lines, wire},
    support::*,
    world::*,
};

/// 20 callers who call every 200 ms are 100 calls in a second, which is little for a machine.
const CALLERS: usize = 20;
const CALLS: usize = CALLERS * 8;
const EVERY: Duration = ms(200);
/// Of so many calls one can be served, however fast they come.
const LOAD: usize = 5;

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let last = times.len() - 1;
    times[last * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_five_times_the_load_rejections_are_quiet_and_health_is_told() {
    let lines = Lines::default();
    // For the threads of this runtime as well. Whatever else is told would cost more than the calls.
    let ours = filter_fn(|metadata| metadata.target().starts_with("plimsoll"));
    tracing_subscriber::registry()
        .with(lines.clone().with_filter(ours))
        .init();
    for (server, speaks) in everywhere() {
        let limit = fixed(4);
        let world = World::new(server, speaks, sheds(shedding(&limit))).await;
        let admin = axum_server(health()).await;
        let over = Arc::<AtomicBool>::default();
        // Health within the service's own port, where the router is laid around; and on a port of its own.
        let asked = match server {
            Server::Tonic => vec![admin],
            Server::Axum | Server::Plimsoll => vec![admin, world.address],
        };
        let probes = asked.into_iter().map(|address| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let (client, mut times) = (wire::http1(), Vec::new());
                let mut ticks = tokio::time::interval(ms(10));
                while !over.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let began = Instant::now();
                    let answer = wire::ask(&client, address, crate::common::get("/health")).await;
                    assert!(answer.status().is_success());
                    times.push(began.elapsed());
                }
                p99(times)
            })
        });
        let probes: Vec<_> = probes.collect();
        let began = tokio::time::Instant::now();
        let called = Arc::<AtomicUsize>::default();
        let callers = (0..CALLERS).map(|place| {
            // Not all at once.
            let first = began + EVERY * u32::try_from(place).expect("few") / 20;
            let (world, called) = (world.another(), Arc::clone(&called));
            tokio::spawn(async move {
                let (mut served, mut rejected) = (0, Vec::new());
                let mut ticks = tokio::time::interval_at(first, EVERY);
                loop {
                    ticks.tick().await;
                    let call = called.fetch_add(1, Ordering::SeqCst) + 1;
                    // Whoever goes lets one of those go who are still there.
                    world
                        .gate
                        .lets(usize::from(call > CALLS || call % LOAD == 0));
                    if call > CALLS {
                        break;
                    }
                    let began = Instant::now();
                    let answer = world.ask("One").await;
                    if reason(&answer).is_some() {
                        world.assert_rejected(&answer, Reason::Shed);
                        rejected.push(began.elapsed());
                    } else {
                        served += 1;
                    }
                }
                (served, rejected)
            })
        });
        let callers: Vec<_> = callers.collect();
        let (mut served, mut times) = (0, Vec::new());
        for caller in join_all(callers).await {
            let (some, rejected) = caller.expect("no panic");
            served += some;
            times.extend(rejected);
        }
        over.store(true, Ordering::Relaxed);
        let handle = limit.handle();
        until_idle(&limit).await;
        assert_eq!(served + times.len(), CALLS);
        assert_eq!(handle.admitted(), u64::try_from(served).expect("few"));
        assert_eq!(
            rejected(&handle, Reason::Shed),
            u64::try_from(times.len()).expect("few")
        );
        assert!(
            times.len() > served,
            "{server:?} {speaks:?}: {served} of all were served"
        );
        let told = lines.take();
        let errors = told.iter().filter(|line| line["level"] == "ERROR").count();
        assert_eq!(errors, 0);
        let warned = told
            .iter()
            .filter(|line| line["target"] == "plimsoll::limit")
            .count();
        assert!(
            (1..20).contains(&warned),
            "{warned} lines of {} rejections",
            times.len()
        );
        let rejection = p99(times);
        let mut health = Vec::new();
        for probe in probes {
            health.push(probe.await.expect("no panic"));
        }
        println!("{server:?} {speaks:?}: p99 of a rejection {rejection:?}, of health {health:?}");
        assert!(
            health
                .iter()
                .chain([&rejection])
                .all(|p99| *p99 < Duration::from_secs(5))
        );
    }
}

/// Of 100 places that become free the second caller gets at least 40, though the first has asked 1,000 times before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hog_with_1000_streams_leaves_the_other_its_share() {
    for (server, speaks) in everywhere() {
        let limit = fixed(10).max_waiting(2_000).max_wait(BOUND);
        let layer = queueing(&limit).fair_share(by_user());
        let world = World::new(server, speaks, waits(layer)).await;
        let handle = limit.handle();
        let served = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let call = |world: &World, user: &'static str, place: usize| {
            let (world, served) = (world.clone(), Arc::clone(&served));
            tokio::spawn(async move {
                let answer = world.send(with(world.request("One"), "x-user", user)).await;
                assert_served(&answer);
                served[place].fetch_add(1, Ordering::SeqCst);
            })
        };
        // Servers take 200 streams of a connection at once.
        let hogs: Vec<_> = (0..5).map(|_| world.another()).collect();
        let hogs: Vec<_> = (0..1_000)
            .map(|turn| call(&hogs[turn % 5], "hog", 0))
            .collect();
        until(&handle, |handle| {
            handle.in_flight() + handle.waiting() == 1_000
        })
        .await;
        let modest: Vec<_> = (0..100).map(|_| call(&world, "modest", 1)).collect();
        until(&handle, |handle| {
            handle.in_flight() + handle.waiting() == 1_100
        })
        .await;
        for round in 1..=10 {
            // Whoever holds a place is at the gate: none of them lags behind for want of a processor.
            until(&handle, |_| world.gate.come() == round * 10).await;
            world.gate.lets(10);
            let all = || {
                served
                    .iter()
                    .map(|count| count.load(Ordering::SeqCst))
                    .sum::<usize>()
            };
            until(&handle, |_| all() == round * 10).await;
        }
        let modest_served = served[1].load(Ordering::SeqCst);
        println!("{server:?} {speaks:?}: {modest_served} of 100");
        assert!(
            modest_served >= 40,
            "{server:?} {speaks:?}: {modest_served} of 100"
        );
        for call in hogs.into_iter().chain(modest) {
            call.abort();
        }
        until_idle(&limit).await;
    }
}
