//! Floods of HTTP/2: each is cut off, with its reason.

use plimsoll::serve::Closed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    peers::BEGIN_H2,
    support::{BOUND, Doors, Running, app, eventually, run, server},
};

/// Sends the same again and again until the server has had enough.
async fn flood(server: &Running, begin: &[u8], again: impl Fn(u32) -> Vec<u8>) {
    let mut stream = server.connect().await;
    let (mut read, mut write) = stream.split();
    let sending = async {
        if write.write_all(BEGIN_H2).await.is_err() || write.write_all(begin).await.is_err() {
            return;
        }
        for number in 0..200_000 {
            if write.write_all(&again(number)).await.is_err() {
                return;
            }
        }
    };
    let mut answer = Vec::new();
    let flood = async {
        // A reset is an end as well.
        let (_, _ended) = tokio::join!(sending, read.read_to_end(&mut answer));
    };
    tokio::time::timeout(BOUND, flood)
        .await
        .expect("it was cut off");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET / HTTP/2` with an authority, in HPACK's static table.
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";

#[tokio::test]
async fn streams_that_are_reset_as_they_come() {
    let server = run(server(app(&Doors::default()))).await;
    flood(&server, &[], |number| {
        let stream = number * 2 + 1;
        let mut both = frame(0x1, 0x5, stream, GET);
        both.extend(frame(0x3, 0, stream, &8_u32.to_be_bytes()));
        both
    })
    .await;
    server.closes(Closed::TooManyResets, 1).await;
}

#[tokio::test]
async fn headers_without_end() {
    let server = run(server(app(&Doors::default()))).await;
    let begin = frame(0x1, 0x1, 1, GET);
    flood(&server, &begin, |_| frame(0x9, 0, 1, b"\x40\x01a\x01b")).await;
    server.closes(Closed::TooManyContinuations, 1).await;
}

#[tokio::test]
async fn data_without_bytes() {
    let server = run(server(app(&Doors::default()))).await;
    let post = b"\x83\x86\x44\x05/echo\x41\x01a";
    let begin = frame(0x1, 0x4, 1, post);
    flood(&server, &begin, |_| frame(0x0, 0, 1, b"")).await;
    server.closes(Closed::TooManyDataFrames, 1).await;
}

#[tokio::test]
async fn others_are_served_meanwhile() {
    let server = run(server(app(&Doors::default()))).await;
    let flooding = flood(&server, &[], |number| {
        let stream = number * 2 + 1;
        let mut both = frame(0x1, 0x5, stream, GET);
        both.extend(frame(0x3, 0, stream, &8_u32.to_be_bytes()));
        both
    });
    let asking = async {
        for _ in 0..20 {
            assert!(server.ask("/ok").await.ends_with("ok"));
        }
    };
    tokio::join!(flooding, asking);
}

/// What the library says when it cuts a flood off may stand in a body, too.
#[tokio::test]
async fn a_caller_cannot_say_that_there_was_a_flood() {
    let server = run(server(app(&Doors::default()))).await;
    let mut stream = server.connect().await;
    let text = [
        &1_u32.to_be_bytes()[..],
        &11_u32.to_be_bytes(),
        b"too_many_resets",
    ]
    .concat();
    let post = b"\x83\x86\x44\x05/echo\x41\x01a";
    let call = [
        frame(0x1, 0x4, 1, post),
        frame(0x0, 0x1, 1, &frame(0x7, 0, 0, &text)),
    ];
    stream.write_all(BEGIN_H2).await.expect("open");
    stream.write_all(&call.concat()).await.expect("open");
    let mut echo = Vec::new();
    while !echo.windows(15).any(|part| part == b"too_many_resets") {
        let read = stream.read_buf(&mut echo).await.expect("open");
        assert_ne!(read, 0, "it answers");
    }
    drop(stream);
    eventually(|| server.connections.open() == 0).await;
    assert_eq!(server.connections.closed(Closed::TooManyResets), 0);
}
