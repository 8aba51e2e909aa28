//! Bodies that are too large.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use plimsoll::{
    server::{
        body_limit::{BodyLimitLayer, BodyTooLarge},
        catch_panic::CatchPanicLayer,
    },
    task,
};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_http::{compression::CompressionLayer, decompression::RequestDecompressionLayer};

use crate::{
    common::{
        Lines, Script,
        body::{Step, map},
    },
    support::{app, call, grpc, http, read_all, with},
};

/// A body of so many bytes that does not tell how many.
fn chunked(mut request: Request<Body>, chunks: usize) -> Request<Body> {
    let steps = (0..chunks).map(|_| Step::Data(&[b'x'; 10]));
    *request.body_mut() = Body::new(Script::of(steps));
    request
}

fn sized(mut request: Request<Body>, bytes: usize) -> Request<Body> {
    *request.body_mut() = Body::from(vec![b'x'; bytes]);
    request
}

#[tokio::test]
async fn a_body_that_tells_its_length_is_refused_unread() {
    let begun = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&begun);
    let app = app(BodyLimitLayer::new(100), move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        read_all(request)
    });
    let length = |bytes: &str| with(http(), &[("content-length", bytes)]);
    for (request, code) in [
        (sized(http(), 101), None),
        (sized(grpc(), 101), Some("8")),
        (chunked(length("101"), 1), None),
        (chunked(length("18446744073709551615"), 1), None),
    ] {
        let seen = call(&app, request).await;
        assert_eq!(seen.head.status(), if code.is_some() { 200 } else { 413 });
        assert_eq!(seen.header("grpc-status"), code);
        assert_eq!(seen.header("plimsoll-reason"), Some("too_large"));
        assert_eq!(
            (seen.told("outcome"), seen.told("layer")),
            ("too_large", "body_limit")
        );
        assert!(seen.told("error").contains("more than 100 bytes"));
        assert_eq!(seen.told("bytes_in"), "0");
    }
    assert_eq!(begun.load(Ordering::Relaxed), 0);
    for request in [sized(http(), 100), chunked(length("100"), 10), http()] {
        assert_eq!(call(&app, request).await.told("outcome"), "ok");
    }
}

#[tokio::test]
async fn any_other_is_refused_at_the_first_byte_too_many() {
    let app = app(BodyLimitLayer::new(100), read_all);
    assert_eq!(
        call(&app, chunked(http(), 10)).await.got.text(),
        "100 bytes"
    );
    for (request, code) in [
        (chunked(http(), 11), None),
        (chunked(grpc(), 1_000), Some("8")),
    ] {
        let seen = call(&app, request).await;
        // The handler's own answer, whose status is that of a teapot, counts for nothing.
        assert_eq!(seen.head.status(), if code.is_some() { 200 } else { 413 });
        assert_eq!(seen.header("grpc-status"), code);
        assert_eq!(seen.header("plimsoll-reason"), Some("too_large"));
        assert_eq!(
            (seen.told("outcome"), seen.told("layer")),
            ("too_large", "body_limit")
        );
        assert_eq!(seen.told("bytes_in"), "110", "what is over is not taken");
        assert_eq!(seen.told("level"), "INFO", "the caller's fault");
    }
}

#[tokio::test]
async fn a_handler_cannot_hide_it() {
    let ignores = async |request: Request<Body>| {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            drop(frame);
        }
        Response::new(Body::from("all is well"))
    };
    let in_another_task = async |request: Request<Body>| {
        let reading = task::spawn("a_reader", request.into_body().collect());
        assert!(reading.await.expect("no panic").is_err());
        Response::new(Body::from("all is well"))
    };
    let unknown = async |request: Request<Body>| {
        let reading = tokio::spawn(request.into_body().collect());
        assert!(reading.await.expect("no panic").is_err());
        Response::new(Body::from("all is well"))
    };
    let panics = async |request: Request<Body>| {
        let read = request.into_body().collect().await;
        Response::new(Body::from(read.expect("a whole body").to_bytes()))
    };
    let cap = || BodyLimitLayer::new(100);
    for app in [
        app(cap(), ignores),
        app(cap(), in_another_task),
        app(cap(), unknown),
        app((cap(), CatchPanicLayer::new()), panics),
    ] {
        let seen = call(&app, chunked(http(), 11)).await;
        assert_eq!(
            (seen.head.status().as_u16(), seen.told("outcome")),
            (413, "too_large")
        );
        assert!(
            seen.told("error").contains("more than 100 bytes"),
            "{:?}",
            seen.line
        );
    }
}

#[tokio::test]
async fn after_the_head_there_is_no_clean_end() {
    let echoes = async |request: Request<Body>| Response::new(request.into_body());
    // Ends well, and with a status of gRPC, though what it read did not.
    let hides = async |request: Request<Body>| {
        let mut body = request.into_body();
        let stream = async_frames(async move {
            let mut frames = vec![];
            while let Some(Ok(frame)) = body.frame().await {
                frames.push(Ok::<_, Infallible>(frame));
            }
            frames.push(Ok(http_body::Frame::trailers(map(&[("grpc-status", "0")]))));
            frames
        });
        Response::new(Body::new(stream))
    };
    for (app, name) in [
        (app(BodyLimitLayer::new(100), echoes), "echoes"),
        (app(BodyLimitLayer::new(100), hides), "hides"),
    ] {
        for request in [chunked(http(), 11), chunked(grpc(), 11)] {
            let is_grpc = request.headers().contains_key("content-type");
            let seen = call(&app, request).await;
            assert_eq!(
                (seen.head.status().as_u16(), seen.got.data.len()),
                (200, 100),
                "{name}"
            );
            assert_eq!(
                seen.got.trailer("grpc-status"),
                is_grpc.then_some("8"),
                "{name}"
            );
            assert_eq!(seen.got.error.is_some(), !is_grpc, "{name}");
            assert_eq!(
                (seen.told("outcome"), seen.told("layer")),
                ("too_large", "body_limit")
            );
        }
    }
}

/// A body of what a future comes to.
fn async_frames<F>(
    frames: F,
) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static
where
    F: Future<Output = Vec<Result<http_body::Frame<Bytes>, Infallible>>> + Send + 'static,
{
    let stream = futures_util::StreamExt::flat_map(
        futures_util::stream::once(frames),
        futures_util::stream::iter,
    );
    StreamBody::new(Box::pin(stream))
}

#[tokio::test]
async fn an_error_of_the_service_is_a_consequence() {
    let service = service_fn(async |request: Request<Body>| {
        let read = request.into_body().collect().await;
        let cause = read.expect_err("it is too large");
        let chain = std::iter::successors(Some(&cause as &dyn std::error::Error), |error| {
            error.source()
        });
        let known = chain.into_iter().any(|error| error.is::<BodyTooLarge>());
        assert!(known, "handlers can tell why: {cause:?}");
        Err::<Response<Body>, _>(cause)
    });
    let answer = BodyLimitLayer::new(100)
        .layer(service)
        .oneshot(chunked(http(), 11))
        .await;
    assert_eq!(answer.expect("an answer in its place").status(), 413);
}

#[tokio::test]
async fn what_cannot_be_counted_is_let_pass_only_if_it_tells_that_it_fits() {
    let lines = Lines::listen();
    let service = BodyLimitLayer::new(100).layer(service_fn(async |request: Request<_>| {
        let read: Result<http_body_util::Collected<Bytes>, _> =
            http_body_util::combinators::UnsyncBoxBody::collect(request.into_body()).await;
        Ok::<_, Infallible>(Response::new(Full::new(read.expect("a body").to_bytes())))
    }));
    let status = async |body: http_body_util::combinators::UnsyncBoxBody<
        Bytes,
        plimsoll::observe::BoxError,
    >| {
        let answer = service.clone().oneshot(Request::new(body)).await;
        answer.expect("infallible").status()
    };
    let full = |bytes| {
        Full::new(Bytes::from(vec![b'x'; bytes]))
            .map_err(Into::into)
            .boxed_unsync()
    };
    assert_eq!(status(full(100)).await, StatusCode::OK);
    assert_eq!(status(full(101)).await, StatusCode::PAYLOAD_TOO_LARGE);
    for _ in 0..2 {
        let unknown = Script::of([Step::Data(b"x")]).boxed_unsync();
        assert_eq!(status(unknown).await, StatusCode::PAYLOAD_TOO_LARGE);
    }
    let told = lines.take();
    let told: Vec<_> = told
        .iter()
        .filter(|line| {
            line.get("event")
                .is_some_and(|event| event == "body_limit_uncounted")
        })
        .collect();
    assert_eq!(
        told.len(),
        1,
        "a fault of the wiring is told once: {told:?}"
    );
}

/// So many zeros, compressed.
pub(crate) async fn gzipped(zeros: usize) -> Bytes {
    let service = service_fn(move |_: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![0; zeros]))))
    });
    let request = with(http(), &[("accept-encoding", "gzip")]);
    let answer = CompressionLayer::new()
        .layer(service)
        .oneshot(request)
        .await
        .expect("infallible");
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes()
}

#[tokio::test]
async fn what_is_decompressed_counts_as_what_it_becomes() {
    let bomb = gzipped(1_000_000).await;
    assert!(bomb.len() < 10_000, "{} bytes", bomb.len());
    let route = || {
        Router::new().route(
            "/",
            post(async |body: Bytes| format!("{} bytes", body.len())),
        )
    };
    let request = |body: Bytes| {
        let request = Request::post("/").header("content-encoding", "gzip");
        let request = request.header("content-length", body.len());
        request.body(Body::from(body)).expect("a request")
    };
    // Layers of a router are added from the inside out: the cap is inside of the decompression, then outside of it.
    let inside = route()
        .layer(BodyLimitLayer::new(10_000))
        .layer(RequestDecompressionLayer::new());
    let outside = route()
        .layer(RequestDecompressionLayer::new())
        .layer(BodyLimitLayer::new(10_000));
    let in_one = route().layer(
        ServiceBuilder::new()
            .layer(RequestDecompressionLayer::new())
            .map_request(|request: Request<_>| request.map(Body::new))
            .layer(BodyLimitLayer::new(10_000)),
    );
    let small = gzipped(9_000).await;
    for (app, body, status) in [
        (&inside, &bomb, 413),
        (&inside, &small, 200),
        (&in_one, &bomb, 413),
        (&in_one, &small, 200),
        (&outside, &bomb, 200),
    ] {
        let answer = app
            .clone()
            .oneshot(request(body.clone()))
            .await
            .expect("infallible");
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn the_default_is_that_of_axum() {
    let app = app(BodyLimitLayer::default(), read_all);
    let at = 2 * 1024 * 1024;
    assert_eq!(call(&app, sized(http(), at)).await.head.status(), 200);
    assert_eq!(call(&app, sized(http(), at + 1)).await.head.status(), 413);
}
