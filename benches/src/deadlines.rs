//! What 100,000 calls that wait within their deadlines cost the processor: the timers' own work, since nothing else runs.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, extract::Request, response::Response};
use plimsoll::server::timeout::TimeoutLayer;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceExt, service_fn};

use crate::harness::loopback::cpu_seconds;

const LIVE: u32 = 100_000;
const WATCHED: Duration = Duration::from_secs(10);

/// Prints the share of one processor, with deadlines that lie behind the time that is watched, and with such that pass
/// within it, each at once followed by the next.
pub(crate) fn print() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    println!("| live deadlines | of | processor | for each that passed |");
    println!("|---|---|---:|---:|");
    for shortest in [Duration::from_secs(60), Duration::from_secs(5)] {
        runtime.block_on(run(shortest))?;
    }
    Ok(())
}

async fn run(shortest: Duration) -> Result<(), String> {
    let layer = TimeoutLayer::new();
    let mut calls = JoinSet::new();
    for number in 0..LIVE {
        // Spread over as long as the shortest is, so that none of them pass together.
        let limit = shortest + shortest * number / LIVE;
        let layer = layer.clone().head(None).total(limit);
        let service = layer.layer(service_fn(|_: Request| {
            std::future::pending::<Result<Response, Infallible>>()
        }));
        calls.spawn(async move {
            loop {
                let answer = service.clone().oneshot(Request::new(Body::empty())).await;
                drop(answer.expect("infallible"));
                PASSED.with(|passed| passed.set(passed.get() + 1));
            }
        });
    }
    tokio::task::yield_now().await;
    let passed_before = PASSED.get();
    let (began, cpu) = (Instant::now(), cpu_seconds(std::process::id())?);
    tokio::time::sleep(WATCHED).await;
    let cpu = cpu_seconds(std::process::id())? - cpu;
    let passed = PASSED.get() - passed_before;
    let share = 100.0 * cpu / began.elapsed().as_secs_f64();
    let each = match passed {
        0 => "–".to_owned(),
        passed => format!("{:.1} us", 1e6 * cpu / passed as f64),
    };
    let longest = shortest * 2;
    println!("| {LIVE} | {shortest:?} to {longest:?} | {share:.2} % | {each} |");
    Ok(())
}

thread_local! {
    static PASSED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
