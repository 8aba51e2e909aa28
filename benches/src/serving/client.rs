//! Raw peers of a server: HTTP/1.1, HTTP/2 and gRPC, as cheap as a client can be, so that the server is what is measured.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use crate::harness::loopback::{REQUEST, read_response};

/// A peer that hears nothing for so long gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
        }
    }

    pub(super) fn named(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| format!("no protocol is called {name}"))
    }
}

/// How many connections there are, and calls under way on each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: usize,
    pub(super) streams: usize,
}

impl Load {
    /// One call at a time.
    pub(super) const IDLE: Self = Self {
        connections: 1,
        streams: 1,
    };

    /// More than one core can do at once.
    pub(super) fn busy(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self {
                connections: 32,
                streams: 1,
            },
            Protocol::Http2 | Protocol::Grpc => Self {
                connections: 4,
                streams: 16,
            },
        }
    }
}

/// The connections to one server.
pub(super) struct Peer {
    connections: Vec<Connection>,
}

enum Connection {
    One(One),
    Two(Two),
}

impl Peer {
    pub(super) fn connect(protocol: Protocol, load: Load, port: u16) -> io::Result<Self> {
        let connect = || match protocol {
            Protocol::Http1 => Ok(Connection::One(One {
                stream: open(port)?,
                sent: None,
            })),
            Protocol::Http2 | Protocol::Grpc => {
                Ok(Connection::Two(Two::open(protocol, load.streams, port)?))
            }
        };
        let connections: io::Result<_> = (0..load.connections).map(|_| connect()).collect();
        Ok(Self {
            connections: connections?,
        })
    }

    /// Keeps all of its calls under way for so long, and waits for the last ones. Tells how long each took.
    pub(super) fn drive(&mut self, duration: Duration, took: &mut Vec<Duration>) -> io::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.turn(true, took)?;
        }
        self.turn(false, took)
    }

    /// So many calls, one after the other.
    pub(super) fn call(&mut self, calls: usize) -> io::Result<()> {
        let mut took = Vec::with_capacity(calls);
        while took.len() < calls {
            self.turn(true, &mut took)?;
            self.turn(false, &mut took)?;
        }
        Ok(())
    }

    /// Each connection reads what has come, and sends as much anew.
    fn turn(&mut self, again: bool, took: &mut Vec<Duration>) -> io::Result<()> {
        for connection in &mut self.connections {
            match connection {
                Connection::One(one) => one.turn(again, took)?,
                Connection::Two(two) => two.turn(again, took)?,
            }
        }
        Ok(())
    }
}

pub(super) fn open(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

struct One {
    stream: TcpStream,
    sent: Option<Instant>,
}

impl One {
    fn turn(&mut self, again: bool, took: &mut Vec<Duration>) -> io::Result<()> {
        if let Some(sent) = self.sent.take() {
            read_response(&mut self.stream)?;
            took.push(sent.elapsed());
        }
        if again {
            self.stream.write_all(REQUEST)?;
            self.sent = Some(Instant::now());
        }
        Ok(())
    }
}

/// How HTTP/2 begins: the preface, empty settings, and a window of the connection that lasts.
pub(super) const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x04\x08\x00\x00\x00\x00\x00\x40\x00\x00\x00";
/// `GET /menu` with the headers of the raw HTTP/1.1 request, in HPACK without its table that grows.
const GET: &[u8] =
    b"\x82\x86\x04\x05/menu\x01\x09localhost\x0f\x2b\x14plimsoll-benches/0.1\x0f\x04\x03*/*\x90";
/// A unary call of gRPC.
const POST: &[u8] = b"\x83\x86\x04\x0b/shop/Order\x01\x09localhost\
    \x0f\x10\x10application/grpc\x00\x02te\x08trailers";
/// Its message.
const MESSAGE: &[u8] = b"\0\0\0\0\x0a\x0a\x08espresso";

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
pub(super) const CONTINUATION: u8 = 0x9;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
const STATUS_200: u8 = 0x88;

struct Two {
    stream: TcpStream,
    protocol: Protocol,
    streams: usize,
    next: u32,
    /// When each call was sent, and whether its head has come.
    sent: HashMap<u32, (Instant, bool)>,
    received: Vec<u8>,
    to_send: Vec<u8>,
}

impl Two {
    fn open(protocol: Protocol, streams: usize, port: u16) -> io::Result<Self> {
        let mut stream = open(port)?;
        stream.write_all(BEGIN)?;
        Ok(Self {
            stream,
            protocol,
            streams,
            next: 1,
            sent: HashMap::new(),
            received: Vec::new(),
            to_send: Vec::new(),
        })
    }

    fn turn(&mut self, again: bool, took: &mut Vec<Duration>) -> io::Result<()> {
        if !self.sent.is_empty() {
            self.read(took)?;
            while !again && !self.sent.is_empty() {
                self.read(took)?;
            }
        }
        while again && self.sent.len() < self.streams {
            let id = self.next;
            self.next += 2;
            self.sent.insert(id, (Instant::now(), false));
            match self.protocol {
                Protocol::Grpc => {
                    frame(&mut self.to_send, HEADERS, END_HEADERS, id, POST);
                    frame(&mut self.to_send, DATA, END_STREAM, id, MESSAGE);
                }
                Protocol::Http1 | Protocol::Http2 => {
                    let flags = END_HEADERS | END_STREAM;
                    frame(&mut self.to_send, HEADERS, flags, id, GET);
                }
            }
        }
        self.stream.write_all(&self.to_send)?;
        self.to_send.clear();
        Ok(())
    }

    /// Reads once, and takes the frames that are whole.
    fn read(&mut self, took: &mut Vec<Duration>) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..read]);
        let mut at = 0;
        while let Some(length) = frame_length(&self.received[at..]) {
            let (kind, flags) = (self.received[at + 3], self.received[at + 4]);
            let id = &self.received[at + 5..at + 9];
            let id = u32::from_be_bytes(id.try_into().expect("four bytes"));
            let payload = &self.received[at + 9..at + length];
            match kind {
                SETTINGS if flags & ACK == 0 => frame(&mut self.to_send, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut self.to_send, PING, ACK, 0, payload),
                GOAWAY | RST_STREAM => {
                    return Err(io::Error::other(format!("frame {kind}: {payload:?}")));
                }
                HEADERS | DATA => {
                    let call = self.sent.get_mut(&id).expect("it was sent");
                    if kind == HEADERS && !call.1 {
                        if payload.first() != Some(&STATUS_200) {
                            return Err(io::Error::other(format!("answered {payload:?}")));
                        }
                        call.1 = true;
                    }
                    if flags & END_STREAM != 0 {
                        took.push(call.0.elapsed());
                        self.sent.remove(&id);
                    }
                }
                _ => {}
            }
            at += length;
        }
        self.received.drain(..at);
        Ok(())
    }
}

/// How long the first frame is with its head, if it is whole.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let [long, mid, short, ..] = *bytes else {
        return None;
    };
    let length = 9 + usize::from(long) * 65_536 + usize::from(mid) * 256 + usize::from(short);
    (bytes.len() >= length).then_some(length)
}

pub(super) fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// `GET` of a path over HTTP/2, whole.
pub(super) fn get(path: &str) -> Vec<u8> {
    let mut block = b"\x82\x86\x04".to_vec();
    block.push(u8::try_from(path.len()).expect("short"));
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x09localhost");
    block
}
