//! Peers that take little, late or nothing of what is ready.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use futures_util::stream;
use plimsoll::serve::Closed;
use tokio::io::AsyncReadExt as _;

use crate::support::{BOUND, Doors, LIMIT, app, eventually, run, send, server};

const FRAME: usize = 24 * 1024 * 1024;
/// In which something has to be taken, and how long a slow peer waits each time: a hundredth of it, since a machine may
/// stand still. All of it takes longer.
const STALL: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(15);

/// Two frames, each far larger than what is taken within the limit.
fn large() -> Router {
    let frame = Bytes::from(vec![b'x'; FRAME]);
    let frames = move || {
        let frame = frame.clone();
        let frames = stream::iter([Ok::<_, Infallible>(frame.clone()), Ok(frame)]);
        async { Body::from_stream(frames) }
    };
    Router::new().route("/large", get(frames))
}

#[tokio::test]
async fn the_last_bytes_of_a_stream_are_taken_or_it_is_ended() {
    let server = run(server(app(&Doors::default())).write_stall(LIMIT)).await;
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(server.connect().await)
        .await
        .expect("a handshake");
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/ok", server.address);
    let request = http::Request::get(uri).body(()).expect("a request");
    let (stuck, _) = client.send_request(request, true).expect("sent");
    let mut body = stuck.await.expect("a head").into_body();
    let ended = tokio::time::timeout(BOUND, body.data())
        .await
        .expect("in time");
    assert!(ended.is_none_or(|data| data.is_err()), "it was reset");
    eventually(|| server.connections.calls() == 0).await;
    connection.abort();
}

#[tokio::test]
async fn a_peer_that_takes_a_large_frame_slowly_gets_it_all() {
    let server = run(server(large()).write_stall(STALL)).await;
    let mut stream = server.connect().await;
    let request = b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    send(&mut stream, request).await;
    let (mut taken, mut buffer) = (0, vec![0; 256 * 1024]);
    let began = Instant::now();
    loop {
        match stream.read(&mut buffer).await.expect("no reset") {
            0 => break,
            read => taken += read,
        }
        // sleeps: what the peer does here is to be slow
        tokio::time::sleep(PAUSE).await;
    }
    assert!(taken > 2 * FRAME, "{taken}");
    assert!(began.elapsed() > STALL, "or nothing could have stalled");
    assert_eq!(server.connections.closed(Closed::WriteStalled), 0);
}

#[tokio::test]
async fn a_stream_that_takes_a_large_frame_slowly_gets_it_all() {
    let server = run(server(large()).write_stall(STALL)).await;
    let (mut client, connection) = h2::client::handshake(server.connect().await)
        .await
        .expect("a handshake");
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/large", server.address);
    let request = http::Request::get(uri).body(()).expect("a request");
    let (head, _) = client.send_request(request, true).expect("sent");
    let client: h2::client::SendRequest<Bytes> = client;
    let mut body = head.await.expect("a head").into_body();
    let (mut taken, mut pause) = (0, 0);
    let began = Instant::now();
    while let Some(data) = body.data().await {
        let data = data.expect("no reset");
        taken += data.len();
        body.flow_control()
            .release_capacity(data.len())
            .expect("it was held");
        pause += data.len();
        if pause > 256 * 1024 {
            pause = 0;
            // sleeps: what the peer does here is to be slow
            tokio::time::sleep(PAUSE).await;
        }
    }
    assert_eq!(taken, 2 * FRAME);
    assert!(began.elapsed() > STALL, "or nothing could have stalled");
    drop(client);
    connection.abort();
}
