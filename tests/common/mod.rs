//! What several tests share: a subscriber that keeps what it is told, bodies that misbehave, servers and clients.
#![allow(
    unused_imports,
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "no file of tests uses all of it, and tests start tasks of their own"
)]

pub mod body;
pub mod grpc;
pub mod lines;
pub mod wire;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use http::{Request, Response};

pub use body::Script;
pub use lines::{Line, Lines};

/// A `GET` of this path.
pub fn get(path: &str) -> Request<Body> {
    Request::builder()
        .uri(path)
        .body(Body::empty())
        .expect("a request")
}

/// A request with this `content-type`, to tell its protocol by.
pub fn post(content_type: &str) -> Request<Body> {
    Request::builder()
        .method("POST")
        .uri("/")
        .header("content-type", content_type)
        .body(Body::empty())
        .expect("a request")
}

/// The text of a header, of a response that may lack it.
pub fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().expect("ASCII"))
}

/// The only value of a header.
pub fn only_header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    let values: Vec<_> = response.headers().get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name} is there once: {values:?}");
    values[0].to_str().expect("ASCII")
}

/// Panics when it is dropped, unless a panic is under way already.
pub struct Bomb(pub &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{}", self.0);
        }
    }
}

/// Is pending once, and wakes at once.
#[derive(Default)]
pub struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Numbers that look random and are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    /// One of `0..sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
