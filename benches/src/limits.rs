//! What a mean does not tell of rate limits: the slowest decisions while the store is swept, those of Redis at a steady
//! load, and what replicas with one quota admit together. Needs `redis-server`, and for clocks an hour apart `faketime`.

use std::{
    convert::Infallible,
    env,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    num::{NonZeroU32, NonZeroUsize},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response};
use plimsoll::server::rate_limit::{
    Key, Quota, QuotaHeaders, RateLimitHandle, RateLimitLayer, Redis, RedisRateLimitLayer, WhenAway,
};
use tokio::{runtime::Runtime, task::JoinSet, time::MissedTickBehavior};
use tower::{Layer, ServiceExt, service_fn};

/// The word that makes this program a replica.
pub(crate) const REPLICA: &str = "replica";

const CALLERS: u32 = 1_000;
const KEYS: u32 = 500_000;
const DECISIONS: u32 = 1_000_000;

const A_SECOND: u32 = 10_000;
const STEADY: Duration = Duration::from_secs(10);

const RATE: u32 = 500;
const BURST: u32 = 100;
const TOGETHER: Duration = Duration::from_secs(20);
/// Calls of a replica under way at once.
const AT_ONCE: usize = 4;

/// All three tables.
pub(crate) fn print() -> Result<(), String> {
    sweeps()?;
    let redis = Server::start()?;
    println!(
        "\n| decisions in Redis, {A_SECOND} a second for {STEADY:?} | p50 | p99 | max |\n|---|---:|---:|---:|"
    );
    steady("each asks", &redis, |layer| layer)?;
    let most = NonZeroU32::new(100).expect("above 0");
    steady("leases of 100", &redis, |layer| layer.lease(most))?;
    println!(
        "\n| three processes, {RATE}/s burst {BURST}, {TOGETHER:?} | admitted | of quota x time + burst |\n|---|---:|---:|"
    );
    together("one clock", &redis, &[0, 0, 0])?;
    together("clocks an hour apart", &redis, &[-1, 0, 1])
}

// --- sweeps

fn sweeps() -> Result<(), String> {
    let runtime = runtime()?;
    // Whoever calls once has all of its burst again after 100 s: nobody is forgotten meanwhile.
    let quota = Quota::per(Duration::from_secs(100), 1).burst(100_000);
    let quota = quota.expect("a quota");
    let layer = RateLimitLayer::new(api_key(), quota)
        .headers(QuotaHeaders::None)
        .max_keys(NonZeroUsize::new(1_000_000).expect("above 0"));
    let handle = layer.handle();
    for caller in 0..KEYS {
        decide(&runtime, &layer, caller);
    }
    println!("| one decision, {KEYS} keys | p50 | p99 | p99.9 | max |\n|---|---:|---:|---:|---:|");
    row(
        "nobody sweeps",
        timed(&runtime, &layer, |turn| turn % CALLERS),
    );
    row(
        "all is swept all the time",
        swept(&handle, || timed(&runtime, &layer, |turn| turn % CALLERS)),
    );
    row(
        "each call brings a new key, and sweeps a little",
        timed(&runtime, &layer, |turn| KEYS + turn % 400_000),
    );
    Ok(())
}

/// Runs this while another thread sweeps the whole store again and again.
fn swept<T>(handle: &RateLimitHandle, run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                handle.keys();
            }
        });
        let result = run();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn timed(runtime: &Runtime, layer: &RateLimitLayer, who: impl Fn(u32) -> u32) -> Vec<Duration> {
    (0..DECISIONS)
        .map(|turn| decide(runtime, layer, who(turn)))
        .collect()
}

/// How long one decision takes, with the future and the answer of a service that does nothing.
fn decide(runtime: &Runtime, layer: &RateLimitLayer, caller: u32) -> Duration {
    let mut request = Request::new(Body::empty());
    request
        .headers_mut()
        .insert("x-api-key", HeaderValue::from(caller));
    let service = layer.layer(service_fn(answer));
    runtime.block_on(async {
        let began = Instant::now();
        service.oneshot(request).await.expect("infallible");
        began.elapsed()
    })
}

// --- Redis

fn steady(
    name: &str,
    redis: &Server,
    set: impl FnOnce(RedisRateLimitLayer) -> RedisRateLimitLayer,
) -> Result<(), String> {
    let layer = set(limited("1000000/s", redis.port)?);
    let latencies = runtime()?.block_on(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        // Open loop: what is late is made up for, and no answer is waited for before the next question.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut calls, mut latencies) = (JoinSet::new(), Vec::new());
        let began = Instant::now();
        while began.elapsed() < STEADY {
            let due = ticks.tick().await.into_std();
            for turn in 0..A_SECOND / 1_000 {
                let layer = layer.clone();
                calls.spawn(async move {
                    call(&layer, turn).await;
                    due.elapsed()
                });
            }
            while let Some(done) = calls.try_join_next() {
                latencies.push(done.expect("no panic"));
            }
        }
        latencies.extend(calls.join_all().await);
        latencies
    });
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| quantile(&latencies, part));
    println!("| {name} | {p50:?} | {p99:?} | {max:?} |");
    Ok(())
}

fn together(name: &str, redis: &Server, hours: &[i32]) -> Result<(), String> {
    redis.command("FLUSHALL")?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let replicas: Vec<Child> = hours
        .iter()
        .map(|&hours| {
            let mut command = Command::new(&program);
            if hours != 0 {
                command = Command::new("faketime");
                command.args(["--exclude-monotonic", "-f", &format!("{hours:+}h")]);
                command.arg(&program);
            }
            command
                .args([REPLICA, &redis.port.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("{name}: {error}"))
        })
        .collect::<Result<_, _>>()?;
    let mut admitted = 0;
    for replica in replicas {
        let said = replica.wait_with_output();
        let said = said.map_err(|error| error.to_string())?.stdout;
        let number = String::from_utf8_lossy(&said).trim().parse::<u32>();
        admitted += number.map_err(|error| error.to_string())?;
    }
    let most = f64::from(BURST) + f64::from(RATE) * began.elapsed().as_secs_f64();
    let share = 100.0 * f64::from(admitted) / most;
    println!("| {name} | {admitted} | {share:.1} % |");
    Ok(())
}

/// Calls as fast as it can, and says how many were admitted.
pub(crate) fn replica(port: u16) -> Result<(), String> {
    let layer = limited(&format!("{RATE}/s burst {BURST}"), port)?;
    let admitted = runtime()?.block_on(async {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let layer = layer.clone();
            callers.spawn(async move {
                let mut admitted = 0_u32;
                while began.elapsed() < TOGETHER {
                    admitted += u32::from(call(&layer, 0).await);
                }
                admitted
            });
        }
        callers.join_all().await.into_iter().sum::<u32>()
    });
    println!("{admitted}");
    Ok(())
}

fn limited(quota: &str, port: u16) -> Result<RedisRateLimitLayer, String> {
    let quota: Quota = quota.parse().expect("a quota");
    let redis = Redis::new(&format!("redis://127.0.0.1:{port}/"));
    let redis = redis.map_err(|error| error.to_string())?;
    let redis = redis.budget(Duration::from_secs(1));
    let layer = RateLimitLayer::new(api_key(), quota).headers(QuotaHeaders::None);
    Ok(layer.in_redis(redis, WhenAway::Closed))
}

async fn call(layer: &RedisRateLimitLayer, caller: u32) -> bool {
    let mut request = Request::new(Body::empty());
    request
        .headers_mut()
        .insert("x-api-key", HeaderValue::from(caller));
    let answer = layer.layer(service_fn(answer)).oneshot(request).await;
    let answer = answer.expect("infallible");
    assert!(!answer.status().is_server_error(), "{answer:?}");
    answer.status().is_success()
}

/// A Redis that ends when this is dropped.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Result<Self, String> {
        let free = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = free.local_addr().map_err(|error| error.to_string())?.port();
        drop(free);
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let said = process.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains("eady to accept connections")) {
            return Err("redis-server does not start".to_owned());
        }
        // What more it says is read and dropped.
        thread::spawn(move || lines.count());
        Ok(Self { process, port })
    }

    fn command(&self, word: &str) -> Result<(), String> {
        let connected = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let mut stream = connected.map_err(|error| error.to_string())?;
        let sent = std::io::Write::write_all(&mut stream, format!("{word}\r\n").as_bytes());
        sent.map_err(|error| error.to_string())?;
        let mut answer = [0; 5];
        let read = stream.read_exact(&mut answer);
        read.map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().expect("it ends");
        }
    }
}

// --- helpers

fn api_key() -> Key {
    Key::header(HeaderName::from_static("x-api-key"))
}

async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

fn runtime() -> Result<Runtime, String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build();
    runtime.map_err(|error| error.to_string())
}

fn row(name: &str, took: Vec<Duration>) {
    let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| quantile(&took, part));
    println!("| {name} | {p50:?} | {p99:?} | {p999:?} | {max:?} |");
}

fn quantile(took: &[Duration], part: f64) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len().saturating_sub(1)) as f64 * part;
    sorted.get(place as usize).copied().unwrap_or_default()
}
