//! What becomes of calls that take too long.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{
    gauge::Gauges as _,
    server::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer},
};
use tokio_stream::StreamExt as _;
use tokio_test::{assert_pending, task};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};

use crate::{
    common::{
        Bomb, Lines, Script,
        body::{Step, map, read},
        post,
    },
    support::{Token, app, call, grpc, http, millis, with},
};

/// Never answers, and holds on to a token.
fn hangs(token: &Token) -> impl Fn(Request<Body>) -> BoxedAnswer + Clone + Send + 'static {
    let token = token.clone();
    move |_| {
        let token = token.clone();
        Box::pin(async move {
            let _held = token;
            std::future::pending().await
        })
    }
}

type BoxedAnswer = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers at once, with a body of these pieces, each after a wait; a last piece that is empty never comes.
fn streams(
    token: &Token,
    headers: &'static [(&'static str, &'static str)],
    pieces: Vec<(u64, &'static str)>,
) -> impl Fn(Request<Body>) -> BoxedAnswer + Clone + Send + 'static {
    let token = token.clone();
    move |_| {
        let (token, pieces) = (token.clone(), pieces.clone());
        Box::pin(async move {
            let stream = tokio_stream::iter(pieces).then(move |(wait, piece)| {
                let token = token.clone();
                async move {
                    let _held = token;
                    tokio::time::sleep(millis(wait)).await; // sleeps: on a paused clock
                    if piece.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, std::convert::Infallible>(Bytes::from(piece))
                }
            });
            let mut answer = Response::new(Body::from_stream(stream));
            *answer.headers_mut() = map(headers);
            answer
        })
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_head_the_caller_is_answered_and_the_handler_dropped() {
    let seconds = Duration::from_secs;
    for (layer, request, after, reason, which) in [
        (TimeoutLayer::new(), http(), seconds(60), "timeout", "head"),
        (
            TimeoutLayer::new().head(seconds(5)),
            http(),
            seconds(5),
            "timeout",
            "head",
        ),
        (
            TimeoutLayer::new().total(seconds(3)),
            http(),
            seconds(3),
            "timeout",
            "total",
        ),
        (
            TimeoutLayer::new().total(seconds(3)).head(seconds(2)),
            grpc(),
            seconds(2),
            "timeout",
            "head",
        ),
        (
            TimeoutLayer::new().total(seconds(3)),
            with(grpc(), &[("grpc-timeout", "1S")]),
            millis(999),
            "deadline",
            "",
        ),
        (
            TimeoutLayer::new().total(seconds(3)),
            with(grpc(), &[("grpc-timeout", "9S")]),
            seconds(3),
            "timeout",
            "total",
        ),
        (
            TimeoutLayer::new(),
            with(
                post("application/grpc-web+proto"),
                &[("grpc-timeout", "1S")],
            ),
            millis(999),
            "deadline",
            "",
        ),
    ] {
        let token = Token::default();
        let app = app(layer.clone(), hangs(&token));
        let at_rest = token.held();
        let is_grpc = request.headers().contains_key("content-type");
        let seen = call(&app, request).await;
        assert_eq!(seen.after, after, "{reason} {which}");
        assert_eq!(token.held(), at_rest, "the handler is gone");
        assert_eq!(seen.header("plimsoll-reason"), Some(reason));
        assert_eq!(seen.head.status(), if is_grpc { 200 } else { 504 });
        assert_eq!(seen.header("grpc-status"), is_grpc.then_some("4"));
        assert_eq!((seen.told("outcome"), seen.told("which")), (reason, which));
        assert_eq!(seen.told("layer"), "timeout");
        assert!(!seen.told("error").is_empty());
        let counts = layer.counts();
        let all = [
            counts.deadline,
            counts.head,
            counts.total,
            counts.idle,
            counts.body,
        ];
        assert_eq!(all.iter().sum::<u64>(), 1, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_head_grpc_gets_trailers_and_http_is_cut() {
    let seconds = Duration::from_secs;
    const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];
    for (layer, request, pieces, after, data, outcome, which) in [
        // The whole call, though the body is never silent for long.
        (
            TimeoutLayer::new().total(seconds(3)),
            http(),
            vec![(900, "a"); 9],
            seconds(3),
            "aaa",
            "timeout",
            "total",
        ),
        // A body that has nothing to send.
        (
            TimeoutLayer::new().idle(seconds(2)),
            http(),
            vec![(1_900, "a"), (1_900, "b"), (0, "")],
            millis(5_800),
            "ab",
            "timeout",
            "idle",
        ),
        (
            TimeoutLayer::new().idle(seconds(2)),
            grpc(),
            vec![(0, "a"), (0, "")],
            seconds(2),
            "a",
            "timeout",
            "idle",
        ),
        // The caller's deadline.
        (
            TimeoutLayer::new(),
            with(grpc(), &[("grpc-timeout", "5S")]),
            vec![(0, "a"), (0, "")],
            millis(4_999),
            "a",
            "deadline",
            "",
        ),
        (
            TimeoutLayer::new().total(seconds(9)),
            with(grpc(), &[("grpc-timeout", "5S")]),
            vec![(4_000, "a"), (4_000, "b")],
            millis(4_999),
            "a",
            "deadline",
            "",
        ),
    ] {
        let token = Token::default();
        let is_grpc = request.headers().contains_key("content-type");
        let app = app(
            layer,
            streams(&token, if is_grpc { GRPC } else { &[] }, pieces),
        );
        let at_rest = token.held();
        let seen = call(&app, request).await;
        assert_eq!(
            (seen.after, seen.got.text()),
            (after, data),
            "{outcome} {which}"
        );
        assert_eq!(token.held(), at_rest, "the body is gone");
        assert_eq!(seen.head.status(), 200);
        if is_grpc {
            assert_eq!(seen.got.trailer("grpc-status"), Some("4"));
            assert_eq!(seen.got.trailer("plimsoll-reason"), Some(outcome));
            assert_eq!(seen.told("grpc_status"), "DEADLINE_EXCEEDED");
        } else {
            assert!(seen.got.error.is_some(), "a cut, not a clean end");
        }
        assert_eq!((seen.told("outcome"), seen.told("which")), (outcome, which));
        assert_eq!(seen.told("layer"), "timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_web_gets_its_status_within_the_body() {
    const WEB: &[(&str, &str)] = &[("content-type", "application/grpc-web+proto")];
    let app = app(
        TimeoutLayer::new().idle(millis(100)),
        streams(&Token::default(), WEB, vec![(0, "\0\0\0\0\x01x"), (0, "")]),
    );
    let seen = call(&app, post("application/grpc-web+proto")).await;
    let told = String::from_utf8_lossy(&seen.got.data);
    assert!(
        told.contains("grpc-status:4") || told.contains("grpc-status: 4"),
        "{told:?}"
    );
    assert_eq!(seen.told("outcome"), "timeout");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_cut_by_default_that_began_to_answer() {
    let day = 24 * 3_600 * 1_000;
    let pieces = vec![(50_000, "a"), (day, "b"), (7 * day, "c")];
    for request in [http(), grpc()] {
        let app = app(
            TimeoutLayer::new(),
            streams(&Token::default(), &[("grpc-status", "0")], pieces.clone()),
        );
        let seen = call(&app, request).await;
        assert_eq!((seen.got.text(), seen.told("outcome")), ("abc", "ok"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_never_silent_is_over_too() {
    let app = app(TimeoutLayer::new().total(millis(500)), async |_| {
        let stream = tokio_stream::iter(std::iter::repeat_with(|| {
            Ok::<_, std::convert::Infallible>("x")
        }));
        Response::new(Body::from_stream(stream))
    });
    let lines = Lines::listen();
    let answer = app.oneshot(http()).await.expect("infallible");
    let mut body = answer.into_body();
    for _ in 0..5 {
        body.frame().await.expect("a frame").expect("in time");
        tokio::time::advance(millis(90)).await;
    }
    tokio::time::advance(millis(90)).await;
    assert!(body.frame().await.expect("an end").is_err());
    assert!(body.frame().await.is_none());
    assert_eq!(lines.one()["outcome"], "timeout");
}

/// Nothing can end a body that nobody asks: the connection's own timeout has to. It is over as soon as it is asked.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_never_read_ends_when_it_is_dropped_or_asked() {
    for is_asked in [false, true] {
        let token = Token::default();
        let app = app(
            TimeoutLayer::new().total(millis(500)),
            streams(&token, &[], vec![(0, "a"), (0, "b")]),
        );
        let at_rest = token.held();
        let lines = Lines::listen();
        let mut body = app
            .clone()
            .oneshot(http())
            .await
            .expect("infallible")
            .into_body();
        body.frame().await.expect("a frame").expect("in time");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(lines.take_access().is_empty());
        if is_asked {
            assert!(body.frame().await.expect("an end").is_err());
        }
        drop(body);
        assert_eq!(token.held(), at_rest);
        let outcome = if is_asked {
            "timeout"
        } else {
            "client_gone_body"
        };
        assert_eq!(lines.one()["outcome"], outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_takes_everything_along_wherever_that_is() {
    let layer = TimeoutLayer::new().total(millis(500)).idle(millis(100));
    let token = Token::default();
    let slow = app(layer.clone(), hangs(&token));
    let at_rest = token.held();
    for polls in 0..3 {
        let lines = Lines::listen();
        let request = with(grpc(), &[("grpc-timeout", "400m")]);
        let mut call = task::spawn(slow.clone().oneshot(request));
        for _ in 0..polls {
            assert_pending!(call.poll());
            tokio::time::advance(millis(10)).await;
        }
        drop(call);
        // The clone of the service within `oneshot` is gone as well.
        assert_eq!(token.held(), at_rest, "after {polls} polls");
        let told = lines.take_access();
        assert_eq!(told.len(), usize::from(polls > 0));
        assert!(told.iter().all(|line| line["outcome"] == "client_gone"));
    }
    let body_of = app(
        layer.clone(),
        streams(&token, &[], vec![(10, "a"), (10, "b"), (0, "")]),
    );
    let at_rest = token.held();
    for frames in 0..3 {
        let lines = Lines::listen();
        let mut body = body_of
            .clone()
            .oneshot(http())
            .await
            .expect("infallible")
            .into_body();
        for _ in 0..frames {
            body.frame().await.expect("a frame").expect("in time");
        }
        {
            let mut next = task::spawn(body.frame());
            assert_pending!(next.poll());
        }
        drop(body);
        assert_eq!(token.held(), at_rest, "after {frames} frames");
        assert_eq!(lines.one()["outcome"], "client_gone_body");
    }
    assert_eq!(layer.counts(), Default::default(), "nobody was timed out");
}

/// A runtime without timers would panic if one were made.
#[test]
fn no_timer_is_touched_for_a_handler_that_is_ready_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let layer = TimeoutLayer::new().total(millis(500)).idle(millis(100));
    let app = app(layer, async |_| Response::new(Body::from("espresso")));
    let request = with(grpc(), &[("grpc-timeout", "1S")]);
    let seen = runtime.block_on(call(&app, request));
    assert_eq!(seen.got.text(), "espresso");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_destructor_of_the_handler_is_caught_by_the_layer_that_does_so() {
    let layer = ServiceBuilder::new()
        .layer(TimeoutLayer::new().head(millis(100)))
        .layer(CatchPanicLayer::new())
        .into_inner();
    let app = app(layer, async |_| {
        let _bomb = Bomb("the handler panics in drop");
        std::future::pending().await
    });
    let seen = call(&app, http()).await;
    assert_eq!(
        (seen.head.status().as_u16(), seen.told("outcome")),
        (504, "timeout")
    );
    assert_eq!(seen.told("which"), "head");
}

#[tokio::test(start_paused = true)]
async fn whatever_the_order_of_layers_a_timeout_is_told_as_one() {
    let timeout = || TimeoutLayer::new().total(millis(100));
    let service = service_fn(async |_: Request<Body>| {
        Ok::<_, std::convert::Infallible>(Response::new(Script::of([Step::Data(b"a"), Step::Hang])))
    });
    // Without any other layer, outside of one that catches, and twice.
    let alone = timeout().layer(service);
    assert!(
        read(alone.oneshot(http()).await.expect("infallible").into_body())
            .await
            .error
            .is_some()
    );
    let caught = CatchPanicLayer::new().layer(timeout().layer(service));
    assert!(
        read(
            caught
                .oneshot(http())
                .await
                .expect("infallible")
                .into_body()
        )
        .await
        .error
        .is_some()
    );
    let (outer, inner) = (timeout(), timeout());
    let twice = ServiceBuilder::new()
        .layer(outer.clone())
        .layer(inner.clone())
        .into_inner();
    let seen = call(
        &app(twice, async |_| {
            Response::new(Body::new(Script::of([Step::Data(b"a"), Step::Hang])))
        }),
        http(),
    )
    .await;
    assert_eq!(
        (seen.got.text(), seen.told("outcome"), seen.told("which")),
        ("a", "timeout", "total")
    );
    assert_eq!(
        inner.counts().total + outer.counts().total,
        1,
        "counted once"
    );
}

#[tokio::test(start_paused = true)]
async fn the_layer_tells_what_it_counted() {
    let layer = TimeoutLayer::new().head(millis(10));
    let mut service = app(layer.clone(), hangs(&Token::default()));
    service
        .ready()
        .await
        .expect("ready")
        .call(http())
        .await
        .expect("infallible");
    let mut told = Vec::new();
    layer.read(&mut |reading| {
        told.push((
            reading.metric(),
            reading.attributes().to_vec().len(),
            reading.value(),
        ))
    });
    assert!(told.contains(&("plimsoll.timeouts", 1, 1)));
    assert_eq!(told.iter().map(|(_, _, value)| value).sum::<u64>(), 1);
    let names: Vec<_> = layer.metrics().iter().map(|metric| metric.name()).collect();
    assert!(told.iter().all(|(name, _, _)| names.contains(name)));
}
