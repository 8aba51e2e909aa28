//! What others see of a server while it is attacked.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    BEGIN, Load, Loop, Peer, Protocol, Running,
    client::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame,
        open,
    },
    get, quantile, resident,
    servers::LIMIT,
};

/// The words that make this program an attacker, and a good caller.
pub(crate) const ATTACKER: &str = "serve-attacker";
pub(crate) const CALLER: &str = "serve-caller";

/// So long a good caller is measured at a time.
const MEASURED: Duration = Duration::from_secs(3);
/// The pause between two of its calls.
const PAUSE: Duration = Duration::from_millis(1);
/// So many connections stall at once; of those that are sent megabytes before they do, fewer.
const STALLED: usize = 500;
const READERS: usize = 100;

/// How an attacker goes about it.
struct Attack {
    name: &'static str,
    what: &'static str,
    begin: fn(u16) -> io::Result<()>,
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "half_heads",
        what: "500 heads that drip",
        begin: |port| {
            stall(
                port,
                STALLED,
                b"GET /menu HTTP/1.1\r\nhost: a\r\nx-slow: ",
                b"x",
            )
        },
    },
    Attack {
        name: "half_frames",
        what: "500 blocks of headers without end",
        begin: |port| {
            let mut begin = BEGIN.to_vec();
            frame(&mut begin, HEADERS, 0, 1, b"\x82");
            stall(
                port,
                STALLED,
                &begin,
                &[0, 0, 0, CONTINUATION, 0, 0, 0, 0, 1],
            )
        },
    },
    Attack {
        name: "slow_bodies",
        what: "500 bodies that drip",
        begin: |port| {
            let head = b"POST /menu HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
            stall(port, STALLED, head, b"x")
        },
    },
    Attack {
        name: "slow_readers",
        what: "100 readers that take nothing",
        begin: |port| {
            let head = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";
            stall(port, READERS, head, b"")
        },
    },
    Attack {
        name: "zero_windows",
        what: "500 streams without a window",
        begin: |port| {
            let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            frame(&mut begin, SETTINGS, 0, 0, b"\0\x04\0\0\0\0");
            let flags = END_HEADERS | END_STREAM;
            frame(&mut begin, HEADERS, flags, 1, &get("/endless"));
            stall(port, STALLED, &begin, b"")
        },
    },
    Attack {
        name: "resets",
        what: "rapid reset",
        begin: |port| {
            flood(port, &[], |to, number| {
                let stream = number * 2 + 1;
                let flags = END_HEADERS | END_STREAM;
                frame(to, HEADERS, flags, stream, &get("/menu"));
                frame(to, RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            })
        },
    },
    Attack {
        name: "continuations",
        what: "CONTINUATION without end",
        begin: |port| {
            let mut begin = Vec::new();
            frame(&mut begin, HEADERS, END_STREAM, 1, &get("/menu"));
            flood(port, &begin, |to, _| {
                frame(to, CONTINUATION, 0, 1, b"\x40\x01a\x01b");
            })
        },
    },
    Attack {
        name: "empty_data",
        what: "DATA without bytes",
        begin: |port| {
            let mut begin = Vec::new();
            let post = b"\x83\x86\x04\x05/menu\x01\x09localhost";
            frame(&mut begin, HEADERS, END_HEADERS, 1, post);
            flood(port, &begin, |to, _| frame(to, DATA, 0, 1, &[]))
        },
    },
    Attack {
        name: "pings",
        what: "PING, answers not taken",
        begin: |port| flood(port, &[], |to, _| frame(to, PING, 0, 0, &[0; 8])),
    },
    Attack {
        name: "settings",
        what: "SETTINGS, answers not taken",
        begin: |port| flood(port, &[], |to, _| frame(to, SETTINGS, 0, 0, &[])),
    },
    Attack {
        name: "connections",
        what: "connections that come and go",
        begin: |port| {
            loop {
                drop(open(port)?);
            }
        },
    },
];

/// Prints how a good caller fares during each attack, and what it costs the server.
pub(crate) fn attacks() -> Result<(), String> {
    println!(
        "| attack | p99 ms: idle | attacked | bound: 3 times and 5 ms | memory, MiB (at most 32) |"
    );
    println!("|---|---:|---:|---:|---:|");
    for attack in ATTACKS {
        eprintln!("{}", attack.what);
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let server = Running::start(Command::new(&program), Loop::Attacked, Stdio::inherit())?;
        let port = server.port.to_string();
        let idle = p99(&program, &port)?;
        let before = resident(server.process.id())?;
        let attacker = Command::new(&program)
            .args([ATTACKER, attack.name, &port])
            .stdin(Stdio::piped())
            .spawn();
        let attacker = Attacker(attacker.map_err(|error| error.to_string())?);
        // It has begun, and what stalls is still within its limits, or has come anew.
        thread::sleep(LIMIT / 4);
        let attacked = p99(&program, &port)?;
        let more = resident(server.process.id())? - before;
        drop(attacker);
        println!(
            "| {} | {idle:.2} | {attacked:.2} | {:.2} | {more:+.1} |",
            attack.what,
            idle * 3.0 + 5.0
        );
    }
    Ok(())
}

struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("the attacker does not end: {error}");
        }
    }
}

/// Of a good caller in a process of its own, in milliseconds.
fn p99(program: &std::path::Path, port: &str) -> Result<f64, String> {
    let seconds = MEASURED.as_secs().to_string();
    let output = Command::new(program)
        .args([CALLER, port, &seconds])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stdout);
    told.trim()
        .parse()
        .map_err(|_| "the caller failed".to_owned())
}

/// The caller's process: one call at a time, by turns over HTTP/1.1 and HTTP/2, with a pause after each.
pub(crate) fn call(port: &str, seconds: &str) -> Result<(), String> {
    let port = port.parse().map_err(|error| format!("{port}: {error}"))?;
    let seconds = seconds
        .parse()
        .map_err(|error| format!("{seconds}: {error}"))?;
    let measured = measure(port, Duration::from_secs(seconds));
    println!("{}", measured.map_err(|error| error.to_string())?);
    Ok(())
}

fn measure(port: u16, duration: Duration) -> io::Result<f64> {
    let mut peers = [
        Peer::connect(Protocol::Http1, Load::IDLE, port)?,
        Peer::connect(Protocol::Http2, Load::IDLE, port)?,
    ];
    let mut took = Vec::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        for peer in &mut peers {
            let began = Instant::now();
            peer.call(1)?;
            took.push(began.elapsed());
            thread::sleep(PAUSE);
        }
    }
    Ok(quantile(&mut took, 0.99) / 1e3)
}

/// The attacker's process: goes on until it is killed.
pub(crate) fn attack(name: &str, port: &str) -> Result<(), String> {
    let attack = ATTACKS.iter().find(|attack| attack.name == name);
    let attack = attack.ok_or_else(|| format!("no attack is called {name}"))?;
    let port = port.parse().map_err(|error| format!("{port}: {error}"))?;
    (attack.begin)(port).map_err(|error| error.to_string())
}

/// Many connections that send the beginning, then something ten times a second, and take nothing. Those that are closed come
/// anew.
fn stall(port: u16, connections: usize, begin: &[u8], drip: &[u8]) -> io::Result<()> {
    let connect = || -> io::Result<TcpStream> {
        let mut stream = open(port)?;
        stream.write_all(begin)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        streams.push(connect()?);
    }
    let mut byte = [0];
    for turn in 1.. {
        thread::sleep(Duration::from_millis(100));
        for stream in &mut streams {
            let is_closed = if drip.is_empty() {
                // Who takes nothing does not learn that it is closed: by then it is.
                turn % TURNS == 0
            } else {
                match (stream.write(drip), stream.read(&mut byte)) {
                    (_, Ok(0)) => true,
                    (Err(error), _) => error.kind() != io::ErrorKind::WouldBlock,
                    (Ok(_), _) => false,
                }
            };
            if is_closed {
                *stream = connect()?;
            }
        }
    }
    Ok(())
}

/// So many tenths of a second are longer than what is allowed, and the looks at it.
const TURNS: u32 = 25;

/// Sends the same again and again, reads nothing, and comes anew when it is cut off.
fn flood(port: u16, begin: &[u8], again: impl Fn(&mut Vec<u8>, u32)) -> io::Result<()> {
    loop {
        let mut stream = open(port)?;
        let mut bytes = BEGIN.to_vec();
        bytes.extend_from_slice(begin);
        let mut number = 0;
        while stream.write_all(&bytes).is_ok() {
            bytes.clear();
            for _ in 0..100 {
                again(&mut bytes, number);
                number += 1;
            }
        }
    }
}
