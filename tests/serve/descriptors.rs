//! A process without descriptors: the loop lives, waits, and says so.

use std::{io, net::SocketAddr, time::Duration};

use plimsoll::serve::{Closed, Listener, Server};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};

use crate::{
    common::lines::Lines,
    support::{Doors, Inside, app},
};

/// Fails so many times, then accepts what it is given.
struct Short {
    failures: u32,
    asked: mpsc::UnboundedSender<Instant>,
    inside: Inside,
}

impl Listener for Short {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, Option<SocketAddr>)> {
        self.asked.send(Instant::now()).expect("the test listens");
        if self.failures > 0 {
            self.failures -= 1;
            const EMFILE: i32 = 24;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.inside.accept().await
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_longer_each_time_and_then_goes_on() {
    let lines = Lines::listen();
    let (asked, mut asks) = mpsc::unbounded_channel();
    let (inside, dial) = Inside::new();
    let listener = Short {
        failures: 12,
        asked,
        inside,
    };
    let server = Server::new(app(&Doors::default())).listen(listener);
    let (connections, control) = (server.connections(), server.control());
    let ended = tokio::spawn(server.run());

    let answer = dial.ask("/ok").await;
    assert!(answer.ends_with("ok"), "{answer}");

    let mut waits = Vec::new();
    let mut last = asks.recv().await.expect("asked");
    for _ in 0..12 {
        let next = asks.recv().await.expect("asked");
        waits.push(next - last);
        last = next;
    }
    let millis: Vec<_> = waits.iter().map(Duration::as_millis).collect();
    for (wait, expected) in millis
        .iter()
        .zip([5, 10, 20, 40, 80, 160, 320, 640, 1_000, 1_000])
    {
        assert!((expected..=expected + 2).contains(wait), "{millis:?}");
    }
    assert_eq!(connections.closed(Closed::Emfile), 12);
    let told = lines.take_of("plimsoll::serve");
    let told: Vec<_> = told.iter().filter(|line| line["level"] == "WARN").collect();
    assert_eq!(told.len(), 1, "one line, not one each: {told:#?}");
    control.drain();
    ended.await.expect("no panic");
}
