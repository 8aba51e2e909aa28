//! Real HTTP/1.1 over loopback: how many requests a server on one core answers, and what CPU time each
//! takes it. The servers and the client are processes of their own, pinned to different cores.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::Router;
use memchr::memmem;

use super::{measure::median, table::number};

/// The words that make this program a server or a client.
pub(crate) const SERVER: &str = "server";
pub(crate) const CLIENT: &str = "client";

pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const CLIENT_CORE: &str = "1";
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(2);
/// A server or client that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Linux tells CPU time in hundredths of a second, on every architecture that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) const REQUEST: &[u8] = b"GET /menu HTTP/1.1\r\n\
    host: localhost:3000\r\n\
    user-agent: plimsoll-benches/0.1\r\n\
    accept: */*\r\n\
    accept-encoding: gzip, deflate, br\r\n\r\n";

/// A Router to be served. The first one of a list is what the others are compared to.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// Called once, in the server's own process.
    pub(crate) make: fn() -> Router,
}

/// A running server; it ends when this is dropped, since its stdin closes then.
struct Running {
    process: Child,
    port: u16,
}

/// What one client run found.
struct Load {
    per_second: f64,
    cpu_microseconds: f64,
}

/// Runs all servers against the client, in interleaved rounds, and prints the table.
pub(crate) fn print(servers: &[Server]) -> Result<(), String> {
    let running: Vec<Running> = servers.iter().map(start).collect::<Result<_, _>>()?;
    let mut order: Vec<usize> = (0..servers.len()).collect();
    let mut measured: Vec<Vec<Load>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        fastrand::shuffle(&mut order);
        for &at in &order {
            measured[at].push(load(&running[at])?);
        }
    }

    println!("| server | requests/s | of bare | CPU µs/request | more than bare |");
    println!("|---|---:|---:|---:|---:|");
    for (server, own) in servers.iter().zip(&measured) {
        let pairs = || own.iter().zip(&measured[0]);
        println!(
            "| {} | {} | {:.2} | {:.2} | {:+.2} |",
            server.name,
            number(median(own.iter().map(|load| load.per_second)).round()),
            median(pairs().map(|(own, bare)| own.per_second / bare.per_second)),
            median(own.iter().map(|load| load.cpu_microseconds)),
            median(pairs().map(|(own, bare)| own.cpu_microseconds - bare.cpu_microseconds)),
        );
    }
    Ok(())
}

fn start(server: &Server) -> Result<Running, String> {
    let mut process = pinned(SERVER_CORE)?
        .args([SERVER, server.name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("taskset does not start: {error}"))?;
    let mut answer = String::new();
    BufReader::new(process.stdout.as_mut().expect("stdout is a pipe"))
        .read_line(&mut answer)
        .map_err(|error| error.to_string())?;
    let port = answer
        .trim()
        .parse()
        .map_err(|_| format!("{} told no port: {answer:?}", server.name))?;
    Ok(Running { process, port })
}

/// This program again, on one core.
pub(crate) fn pinned(core: &str) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", core]).arg(program);
    Ok(command)
}

fn load(server: &Running) -> Result<Load, String> {
    let before = cpu_seconds(server.process.id())?;
    let output = pinned(CLIENT_CORE)?
        .args([CLIENT, &server.port.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let cpu = cpu_seconds(server.process.id())? - before;
    let told = String::from_utf8_lossy(&output.stdout);
    let mut numbers = told.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(requests)), Some(Ok(per_second))) => Ok(Load {
            per_second,
            cpu_microseconds: cpu * 1e6 / requests,
        }),
        _ => Err("the client failed".to_owned()),
    }
}

/// User and system time of all threads of a process so far.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The program's name, in brackets, may hold spaces; utime and stime are the 12th and 13th word after it.
    let words = stat.rsplit_once(')').map(|(_, words)| words);
    let ticks = words.map(|words| words.split_whitespace().skip(11).take(2));
    let ticks: f64 = ticks
        .into_iter()
        .flatten()
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// The server's process: tells its port and serves until its stdin is closed.
pub(crate) fn serve(server: &Server) -> io::Result<()> {
    until_stdin_closes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        axum::serve(listener, (server.make)()).await
    })
}

/// Ends this process with the one that started it.
pub(crate) fn until_stdin_closes() {
    std::thread::spawn(|| {
        let closed = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(i32::from(closed.is_err()));
    });
}

/// The client's process: keeps one request under way on every connection, and tells how many were
/// answered in all, and how many a second after the warm-up.
pub(crate) fn drive(port: u16) -> io::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(REQUEST)?;
        connections.push(connection);
    }
    let warm_up = drive_for(&mut connections, WARM_UP)?;
    let start = Instant::now();
    let requests = drive_for(&mut connections, MEASURED)?;
    let per_second = requests as f64 / start.elapsed().as_secs_f64();
    println!("{} {per_second}", warm_up + requests);
    Ok(())
}

fn drive_for(connections: &mut [TcpStream], duration: Duration) -> io::Result<u64> {
    let end = Instant::now() + duration;
    let mut requests = 0;
    while Instant::now() < end {
        for connection in &mut *connections {
            read_response(connection)?;
            connection.write_all(REQUEST)?;
            requests += 1;
        }
    }
    Ok(requests)
}

/// Reads one response to its end.
pub(crate) fn read_response(connection: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let read = connection.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if is_complete(&buffer[..filled])? {
            return Ok(());
        }
    }
}

/// Whether a whole response is there; an error if it is not the expected one.
fn is_complete(received: &[u8]) -> io::Result<bool> {
    let Some(head) = memmem::find(received, b"\r\n\r\n") else {
        return Ok(false);
    };
    let unexpected = || io::Error::other(String::from_utf8_lossy(received).into_owned());
    if !received.starts_with(b"HTTP/1.1 200 ") {
        return Err(unexpected());
    }
    let name = b"content-length: ";
    let length = memmem::find(&received[..head], name).ok_or_else(unexpected)? + name.len();
    let digits = received[length..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Ok(received.len() >= head + 4 + length)
}
