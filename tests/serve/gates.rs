//! What keeps connections and calls out: room, and how long requests lie unread.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use plimsoll::{
    context::Priority,
    limit::{Gate, Limit, ReadDelay},
    ops::health::Health,
    serve::Server,
    server::load_shed::LoadShedLayer,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{BOUND, Doors, app, eventually, run, send, server, until_closed};

#[tokio::test]
async fn connections_wait_outside_until_there_is_room() {
    let (open, opened) = watch::channel(false);
    let server = server(app(&Doors::default())).accept_when(move || {
        let mut opened = opened.clone();
        async move {
            opened
                .wait_for(|open| *open)
                .await
                .expect("the test holds it");
        }
    });
    let server = run(server).await;
    let mut stream = server.connect().await;
    send(
        &mut stream,
        b"GET /ok HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(server.connections.open(), 0, "it is in the kernel's queue");
    open.send(true).expect("the server listens");
    assert!(until_closed(&mut stream).await.ends_with("ok"));
    // A server without room drains all the same.
    open.send(false).expect("the server listens");
    assert_eq!(server.end().await.cut, 0);
}

#[tokio::test]
async fn a_full_limit_keeps_connections_out() {
    let doors = Doors::default();
    let limit = Limit::fixed(NonZeroUsize::MIN).max_waiting(0);
    let handle = limit.handle();
    let room = handle.clone();
    let server = server(app(&doors).layer(LoadShedLayer::new(limit))).accept_when(move || {
        let room = room.clone();
        async move { room.room().await }
    });
    let server = run(server).await;
    let mut first = server.connect().await;
    send(
        &mut first,
        b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    doors.begun.notified().await;
    assert_eq!(handle.in_flight(), 1);
    // One more was already on its way through the gate; the next ones stay outside.
    let second = server.connect().await;
    let mut third = server.connect().await;
    send(
        &mut third,
        b"GET /ok HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    eventually(|| server.connections.open() == 2).await;
    doors.go.notify_one();
    assert!(until_closed(&mut first).await.ends_with("waited"));
    let answer = until_closed(&mut third).await;
    assert!(answer.ends_with("ok"), "{answer}");
    drop(second);
}

#[tokio::test]
async fn operators_are_answered_while_all_else_is_full() {
    let doors = Doors::default();
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let probes = admin.local_addr().expect("an address");
    let limit = Limit::fixed(NonZeroUsize::MIN).max_waiting(0);
    let server = server(app(&doors).layer(LoadShedLayer::new(limit)))
        .max_connections(NonZeroUsize::new(2).expect("above 0"))
        .admin(admin, Health::new().routes());
    let server = run(server).await;
    let mut running = server.connect().await;
    send(&mut running, b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    doors.begun.notified().await;
    let mut shed = server.connect().await;
    send(&mut shed, b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut answer = [0; 12];
    shed.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 503");
    let mut refused = server.connect().await;
    assert_eq!(until_closed(&mut refused).await, "");
    for path in ["/livez", "/readyz"] {
        let mut probe = TcpStream::connect(probes).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        send(&mut probe, request.as_bytes()).await;
        let answer = until_closed(&mut probe).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    doors.go.notify_one();
    server.end().await;
}

/// Counts whom it refuses.
struct Counted {
    delay: ReadDelay,
    refused: Arc<AtomicUsize>,
}

impl Gate for Counted {
    fn name(&self) -> &'static str {
        self.delay.name()
    }

    fn admits(&self, priority: Priority, now: Instant) -> bool {
        let admits = self.delay.admits(priority, now);
        self.refused
            .fetch_add(usize::from(!admits), Ordering::Relaxed);
        admits
    }
}

/// Handlers that compute and do not await: no limit on calls in flight sees them, the time that requests lie unread does.
#[test]
fn calls_that_lie_unread_for_long_are_refused() {
    let delay = ReadDelay::new();
    let by_delay = Arc::<AtomicUsize>::default();
    let gate = LoadShedLayer::new(Limit::adaptive()).gate(Counted {
        delay: delay.clone(),
        refused: Arc::clone(&by_delay),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let spin = || async {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        "spun"
    };
    let app = Router::new().route("/spin", get(spin)).layer(gate);
    // The server has one thread of its own, as a service has so many.
    let (tell, told) = std::sync::mpsc::channel();
    let served = std::thread::spawn({
        let delay = delay.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("an address");
                let server = Server::new(app).read_delay(&delay).listen(listener);
                tell.send((address, server.control()))
                    .expect("the test listens");
                server.run().await
            })
        }
    });
    let (address, control) = told.recv().expect("it has begun");
    let clients = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    clients.expect("a runtime").block_on(async {
        let client = |stop: Arc<AtomicBool>| async move {
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                send(
                    &mut stream,
                    b"GET /spin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                )
                .await;
                let answer = until_closed(&mut stream).await;
                if answer.starts_with("HTTP/1.1 503 ") {
                    assert!(answer.contains("plimsoll-reason: shed"), "{answer}");
                    refused += 1;
                    stop.store(refused >= 5, Ordering::Relaxed);
                }
            }
        };
        let clients: Vec<_> = (0..64)
            .map(|_| tokio::spawn(client(Arc::clone(&stop))))
            .collect();
        let all = async {
            for client in clients {
                client.await.expect("no panic");
            }
        };
        tokio::time::timeout(BOUND, all)
            .await
            .expect("some are refused");
    });
    assert!(by_delay.load(Ordering::Relaxed) >= 5);
    control.cut();
    served.join().expect("no panic");
}
