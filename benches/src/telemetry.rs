//! What export costs: a scrape of many series, and a collector that is dead.
//!
//! `--features telemetry -- scrape` renders `/metrics` with 2,000 series of histograms, then lets one thread make calls
//! while nobody scrapes, while one scraper asks without a pause, and while four do not read what they asked for.
//!
//! `--features telemetry -- collector [seconds]` serves `GET /ok` three times, each in a process of its own: without
//! a collector, with one that refuses connections, and with one that accepts them and never answers. One client asks
//! the three in turn, a minute long by default.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use axum::{Router, body::Body, routing::get};
use http::{Request, Response};
use http_body_util::BodyExt;
use plimsoll::{
    server::{metrics::MetricsLayer, trace_context::TraceContextLayer},
    telemetry::{Otlp, Setup, Telemetry},
};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

use crate::harness::loopback::until_stdin_closes;

/// The word that makes this program a server; what its collector does follows.
pub(crate) const SERVER: &str = "telemetry-server";

const ROUTES: usize = 1_000;
const SCRAPES: usize = 40;
const CALLS: usize = 200_000;
const COLLECTORS: [&str; 3] = ["none", "refuses", "never answers"];

fn app(telemetry: &Telemetry, routes: usize) -> Router {
    let mut app = Router::new().route("/ok", get(|| async { "ok" }));
    for route in 0..routes {
        app = app.route(&format!("/shop/items/{route}"), get(|| async { "here" }));
    }
    app.layer((
        TraceContextLayer::new(telemetry.tracer().clone()),
        MetricsLayer::new(telemetry.meter()),
    ))
    .with_state(())
}

async fn ask(app: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    app.clone().oneshot(request).await.expect("infallible")
}

async fn read(answer: Response<Body>) -> usize {
    let body = answer.into_body().collect().await.expect("a body");
    body.to_bytes().len()
}

/// Percentiles of what was measured.
struct Spread(Vec<Duration>);

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, part: f64) -> f64 {
        let at = (self.0.len() - 1) as f64 * part;
        self.0[at as usize].as_secs_f64() * 1e6
    }

    fn row(&self) -> String {
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|part| self.at(part));
        format!("{p50:.1} | {p99:.1} | {worst:.0}")
    }
}

/// Prints what scrapes cost, and cost others.
pub(crate) fn scrape() -> Result<(), String> {
    let runtime = runtime()?;
    let telemetry = Setup::new().init().map_err(|error| error.to_string())?;
    let (app, metrics) = (app(&telemetry, ROUTES), telemetry.metrics_route());
    runtime.block_on(async {
        for route in 0..ROUTES {
            read(ask(&app, &format!("/shop/items/{route}")).await).await;
        }
    });
    let render = || {
        let start = Instant::now();
        let bytes = runtime.block_on(async { read(ask(&metrics, "/metrics").await).await });
        (start.elapsed(), bytes)
    };
    let (_, bytes) = render();
    let scrapes = Spread::of((0..SCRAPES).map(|_| render().0).collect());
    println!(
        "`/metrics` with {} series of histograms and {ROUTES} of counters, {bytes} bytes:",
        2 * ROUTES
    );
    println!(
        "{:.1} ms (median of {SCRAPES}; worst {:.1} ms)\n",
        scrapes.at(0.5) / 1e3,
        scrapes.at(1.0) / 1e3
    );

    println!("| calls while | p50 µs | p99 µs | worst µs |\n|---|---:|---:|---:|");
    println!("| nobody scrapes | {} |", calls(&app).row());
    let done = AtomicBool::new(false);
    let scraped = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while !done.load(Ordering::Relaxed) {
                render();
                scrapes += 1;
            }
            scrapes
        });
        println!("| one scrapes all the time | {} |", calls(&app).row());
        done.store(true, Ordering::Relaxed);
        scraper.join()
    });
    let scraped = scraped.map_err(|_| "the scraper panicked")?;
    let unread: Vec<_> = (0..4)
        .map(|_| runtime.block_on(ask(&metrics, "/metrics")))
        .collect();
    println!("| four do not read | {} |", calls(&app).row());
    println!(
        "\n{scraped} scrapes in the second row; {} hold a text in the third.",
        unread.len()
    );
    Ok(())
}

/// One thread calls, as fast as it can.
fn calls(app: &Router) -> Spread {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let times = (0..CALLS).map(|_| {
        let start = Instant::now();
        runtime.block_on(async { read(ask(app, "/ok").await).await });
        start.elapsed()
    });
    Spread::of(times.collect())
}

fn runtime() -> Result<Runtime, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.map_err(|error| error.to_string())
}

/// A server in a process of its own. It ends when its stdin is closed.
struct Server {
    collector: &'static str,
    process: Child,
    connection: TcpStream,
    times: Vec<Duration>,
}

impl Server {
    fn start(collector: &'static str) -> Result<Self, String> {
        let told = |error: io::Error| error.to_string();
        let mut process = Command::new(std::env::current_exe().map_err(told)?)
            .args([SERVER, collector])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(told)?;
        let mut port = String::new();
        BufReader::new(process.stdout.as_mut().expect("stdout is a pipe"))
            .read_line(&mut port)
            .map_err(told)?;
        let port = port
            .trim()
            .parse()
            .map_err(|_| format!("no port: {port}"))?;
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(told)?;
        connection.set_nodelay(true).map_err(told)?;
        Ok(Self {
            collector,
            process,
            connection,
            times: Vec::new(),
        })
    }

    fn get(&mut self, path: &str) -> Result<String, String> {
        let answer = exchange(&mut self.connection, path);
        answer.map_err(|error| format!("{} {path}: {error}", self.collector))
    }

    /// What the process holds, in MiB.
    fn resident(&self) -> f64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.map_or(f64::NAN, |kib: f64| kib / 1024.0)
    }
}

/// Prints what a dead collector costs those who call.
pub(crate) fn collector(seconds: u64) -> Result<(), String> {
    let mut servers = Vec::new();
    for collector in COLLECTORS {
        servers.push(Server::start(collector)?);
    }
    let (start, length) = (Instant::now(), Duration::from_secs(seconds));
    let mut resident = None;
    while start.elapsed() < length {
        for server in &mut servers {
            let asked = Instant::now();
            server.get("/ok")?;
            server.times.push(asked.elapsed());
        }
        if resident.is_none() && start.elapsed() > length / 6 {
            resident = Some(servers.iter().map(Server::resident).collect::<Vec<_>>());
        }
    }
    println!("`GET /ok` of each in turn, for {seconds} s:\n");
    println!(
        "| collector | p50 µs | p99 µs | worst µs | p99, more than without | MiB after a sixth | MiB at the end | exports failed | spans lost | of spans |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut without = None;
    for (server, early) in servers.iter_mut().zip(resident.unwrap_or_default()) {
        let metrics = server.get("/metrics")?;
        let told = |name: &str| -> u64 {
            let lines = metrics.lines().filter(|line| line.starts_with(name));
            lines
                .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
                .sum()
        };
        let calls = server.times.len();
        let times = Spread::of(std::mem::take(&mut server.times));
        let base = *without.get_or_insert(times.at(0.99));
        println!(
            "| {} | {} | {:+.1} | {early:.1} | {:.1} | {} | {} | {calls} |",
            server.collector,
            times.row(),
            times.at(0.99) - base,
            server.resident(),
            told("plimsoll_export_errors_total"),
            told("plimsoll_spans_dropped_total"),
        );
        // It ends now that nobody holds its stdin.
        server.process.stdin = None;
        server.process.wait().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One call of HTTP/1.1, and the body of its answer.
fn exchange(connection: &mut TcpStream, path: &str) -> io::Result<String> {
    write!(connection, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ");
            let length = length.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
            if !head.starts_with("HTTP/1.1 200 ") || length.is_none() {
                return Err(io::Error::other(head.to_owned()));
            }
            if Some(body.len()) == length {
                return Ok(body.to_owned());
            }
        }
        match connection.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The server's process.
pub(crate) fn serve(collector: &str) -> Result<(), String> {
    until_stdin_closes();
    let told = |error: io::Error| error.to_string();
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
    let url = format!("http://{}", dead.local_addr().map_err(told)?);
    match collector {
        "never answers" => {
            // What it accepts it keeps.
            thread::spawn(move || dead.incoming().collect::<Vec<_>>());
        }
        _ => drop(dead),
    }
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut setup = Setup::new().export_interval(Duration::from_secs(1));
        if collector != "none" {
            setup = setup.otlp_endpoint(url).otlp_protocol(Otlp::Http);
        }
        let telemetry = setup.init().map_err(|error| error.to_string())?;
        let app = app(&telemetry, 0).merge(telemetry.metrics_route());
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.await.map_err(told)?;
        println!("{}", listener.local_addr().map_err(told)?.port());
        io::stdout().flush().map_err(told)?;
        axum::serve(listener, app).await.map_err(told)
    })
}
