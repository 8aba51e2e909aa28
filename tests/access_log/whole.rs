//! Whole stacks: secrets, orders of layers, and cancels anywhere.

use super::*;

#[tokio::test]
async fn no_secret_of_the_request_is_in_its_line() {
    let lines = Lines::listen();
    let layer = AccessLogLayer::new().redact_headers([HeaderName::from_static("x-api-key")]);
    let quoting = service_fn(|request: Request<Body>| async move {
        let quoted = format!("{:?} {:?}", request.headers(), request.uri());
        if request.uri().path() == "/panic" {
            panic!("{quoted}");
        }
        if request.uri().path() == "/body" {
            return Ok(response(200, [Step::Fail(quoted.into())]));
        }
        if request.uri().path() == "/failure" {
            let mut answer = response(500, []);
            let cookie = HeaderValue::from_static("session=canary-set; Path=/");
            answer.headers_mut().insert("set-cookie", cookie);
            let quoted = format!("{quoted} {:?}", answer.headers());
            answer.extensions_mut().insert(Failure::new(quoted));
            return Ok(answer);
        }
        Err::<Response<Script>, BoxError>(quoted.into())
    });
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(CatchPanicLayer::new())
        .service(quoting);
    for path in ["/panic", "/body", "/failure", "/err"] {
        let mut request = get(&format!("{path}?key=canary-query%20a&flag=canary+b"));
        request.headers_mut().extend(map(&[
            ("authorization", "Bearer canary-token"),
            ("proxy-authorization", "Basic canary-proxy"),
            ("cookie", "a=canary-one; b=canary-two"),
            ("x-api-key", "canary-key"),
        ]));
        request
            .headers_mut()
            .append("cookie", HeaderValue::from_static("c=canary-three"));
        if let Ok(answer) = service.clone().oneshot(request).await {
            drop(answer.into_body().collect().await);
        }
        let told = lines.take();
        assert!(!told.is_empty());
        let text = format!("{told:?}");
        assert!(!text.contains("canary"), "{path}: {text}");
    }
}

#[tokio::test]
async fn no_secret_of_a_call_is_in_the_last_words_of_its_tasks() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|request: Request<Body>| async move {
        let token = request.headers()["authorization"].clone();
        let task = plimsoll::task::spawn("mail", async move { panic!("bad token: {token:?}") });
        assert!(task.await.is_err());
        Ok::<_, Infallible>(response(200, []))
    }));
    let mut request = get("/");
    request
        .headers_mut()
        .extend(map(&[("authorization", "Bearer canary-token")]));
    drop(service.oneshot(request).await);
    let text = format!("{:?}", lines.take());
    assert!(text.contains("task_died"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

// ---- orders of layers

#[tokio::test]
async fn a_panic_is_told_as_such_in_every_order_of_layers() {
    macro_rules! told {
        ($($layer:expr),*) => {{
            let mut told = Vec::new();
            for path in ["/call", "/await", "/body", "/drop"] {
                let lines = Lines::listen();
                let service = ServiceBuilder::new()$(.layer($layer))*.service(service_fn(panicking));
                let call = tokio::spawn(async move {
                    let answer = service.oneshot(get(path)).await.expect("infallible");
                    drop(answer.into_body().collect().await);
                });
                // Without the layer that catches it the task dies.
                drop(call.await);
                let line = lines.one();
                assert!(line.contains_key("request_id") && line["request_id"] == line["current"], "{line:?}");
                told.push(line["outcome"].clone());
            }
            told
        }};
    }
    fn panicking(
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Script>, Infallible>> + Send {
        if request.uri().path() == "/call" {
            panic!("in call");
        }
        async move {
            Yield::default().await;
            Ok(match request.uri().path() {
                "/await" => panic!("in await"),
                "/body" => response(200, [Step::Data(b"ok"), Step::Wait, Step::Panic("in body")]),
                _ => Response::new(Script::of([Step::Data(b"ok"), Step::Wait]).with_bomb()),
            })
        }
    }
    let id = RequestIdLayer::new;
    let log = AccessLogLayer::new;
    let catch = CatchPanicLayer::new;
    let outcomes = ["panic", "panic", "body_panic"];
    assert_eq!(told!(id(), log(), catch())[..3], outcomes);
    assert_eq!(told!(log(), id(), catch())[..3], outcomes);
    assert_eq!(told!(log(), catch(), id())[..3], outcomes);
    assert_eq!(told!(id(), catch(), log())[..3], outcomes);
    assert_eq!(told!(catch(), id(), log())[..3], outcomes);
    assert_eq!(told!(catch(), log(), id())[..3], outcomes);
    assert_eq!(told!(id(), log())[..3], outcomes);
    assert_eq!(told!(log(), id())[..3], outcomes);
}

#[tokio::test]
async fn a_call_has_one_line_though_the_layer_is_applied_twice() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/", on_get(|| async { "ok" }))
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new())
        .layer(RequestIdLayer::new());
    let answer = app.oneshot(get("/")).await.expect("infallible");
    answer.into_body().collect().await.expect("no error");
    lines.one();
}

#[tokio::test]
async fn a_subscriber_that_knows_spans_finds_each_call_in_one() {
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<Vec<String>>>);
    impl<S> tracing_subscriber::Layer<S> for Spans
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            context: tracing_subscriber::layer::Context<'_, S>,
        ) {
            let span = context.event_span(event).map_or("none", |span| span.name());
            let target = event.metadata().target();
            self.0
                .lock()
                .expect("not poisoned")
                .push(format!("{target} in {span}"));
        }
    }
    use tracing_subscriber::layer::SubscriberExt as _;
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    crate::common::lines::others_may_listen();
    let _guard = tracing::subscriber::set_default(subscriber);
    let layer = AccessLogLayer::new().call_span();
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(layer)
        .service(service_fn(|_: Request<Body>| async {
            tracing::info!(target: "test", "before");
            Yield::default().await;
            let task = tokio::spawn(in_current_call(async {
                tracing::info!(target: "test", "task")
            }));
            task.await.expect("no panic");
            let chunks = tokio_stream::StreamExt::map(tokio_stream::iter(0..1), |_| {
                tracing::info!(target: "test", "body");
                Ok::<_, Infallible>(Bytes::from_static(b"."))
            });
            Ok::<_, Infallible>(Response::new(Body::from_stream(chunks)))
        }));
    let answer = service.oneshot(get("/")).await.expect("infallible");
    tracing::info!(target: "test", "between");
    drop(answer.into_body().collect().await);
    let told = std::mem::take(&mut *spans.0.lock().expect("not poisoned"));
    assert_eq!(
        told,
        [
            "test in call",
            "test in call",
            "test in none",
            "test in call",
            "plimsoll::access in call"
        ]
    );
}

// ---- cancels

#[tokio::test]
async fn ten_thousand_calls_cancelled_anywhere_have_one_line_each() {
    async fn winding(request: Request<Body>) -> Result<Response<Script>, Infallible> {
        let steps = request.uri().path().len() % 7;
        for _ in 0..steps {
            Yield::default().await;
        }
        let trailers = || match request.headers().contains_key("content-type") {
            true => Step::Trailers(map(&[("grpc-status", "0")])),
            false => Step::Data(b"end"),
        };
        Ok(response(
            200,
            [
                Step::Data(b"a"),
                Step::Wait,
                Step::Data(b""),
                Step::Wait,
                Step::Wait,
                trailers(),
            ],
        ))
    }
    let lines = Lines::listen();
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new())
        .service(service_fn(winding));
    let mut dice = Dice(7);
    let mut outcomes = std::collections::BTreeMap::new();
    for _ in 0..10_000 {
        let path = format!(
            "/{}",
            "p".repeat(usize::try_from(dice.roll(7)).expect("small"))
        );
        let mut request = if dice.roll(2) == 0 {
            get(&path)
        } else {
            post("application/grpc")
        };
        *request.uri_mut() = path.parse().expect("a path");
        let mut polls = dice.roll(16);
        let call = service.clone().oneshot(request);
        let whole = async {
            let answer = call.await.expect("infallible");
            let mut body = Box::pin(answer.into_body());
            while let Some(frame) = body.frame().await {
                drop(frame);
            }
        };
        let mut whole = Box::pin(whole);
        let ended = poll_fn(|context| {
            while polls > 0 {
                polls -= 1;
                if whole.as_mut().poll(context).is_ready() {
                    return Poll::Ready(true);
                }
            }
            Poll::Ready(false)
        })
        .await;
        drop(whole);
        assert_eq!(RequestId::current(), None);
        let told = lines.take_access();
        // A call that was never polled never was.
        if !ended && told.is_empty() {
            continue;
        }
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["outcome"] == "ok", ended, "{told:?}");
        *outcomes.entry(told[0]["outcome"].clone()).or_insert(0) += 1;
    }
    let seen: Vec<_> = outcomes.keys().map(String::as_str).collect();
    assert_eq!(
        seen,
        ["client_gone", "client_gone_body", "ok"],
        "{outcomes:?}"
    );
    assert!(outcomes.values().sum::<i32>() > 9_000, "{outcomes:?}");
    assert!(outcomes.values().all(|&count| count > 500), "{outcomes:?}");
}

#[tokio::test]
async fn a_body_that_is_dropped_on_another_thread_has_its_line() {
    let lines = Lines::default();
    let _here = tracing::dispatcher::set_default(&lines.dispatch());
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .service(service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(response(200, [Step::Data(b"half"), Step::Hang]))
        }));
    let answer = service.oneshot(get("/")).await.expect("infallible");
    let id = header(&answer, "x-request-id").expect("an id").to_owned();
    let dispatch = lines.dispatch();
    let thread = std::thread::spawn(move || {
        tracing::dispatcher::with_default(&dispatch, || drop(answer));
    });
    thread.join().expect("no panic");
    let line = lines.one();
    assert_eq!(
        fields(&line, ["request_id", "current", "outcome"]),
        [&*id, &*id, "client_gone_body"]
    );
}
