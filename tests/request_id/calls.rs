//! One task with several calls, and one call in several tasks.

use super::*;

/// A small full stack around this handler.
macro_rules! stack {
    ($service:expr) => {
        ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .layer(CatchPanicLayer::new())
            .service($service)
    };
}

#[tokio::test]
async fn a_call_within_a_call_has_an_id_and_a_line_of_its_own() {
    let lines = Lines::listen();
    let outer = stack!(service_fn(|_: Request<Body>| async {
        let before = RequestId::current().expect("within a call");
        access_log::field("side", "outer");
        let inner = stack!(service_fn(|_: Request<Body>| async {
            Yield::default().await;
            access_log::field("side", "inner");
            if true {
                panic!("in the inner call");
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let mut request = post("application/grpc");
        request
            .headers_mut()
            .extend(map(&[("x-request-id", "inner")]));
        let answer = inner.oneshot(request).await.expect("infallible");
        assert_eq!(only_header(&answer, "x-request-id"), "inner");
        assert_eq!(header(&answer, "grpc-status"), Some("13"));
        assert_eq!(RequestId::current().as_ref(), Some(&before));
        drop(answer);
        assert_eq!(RequestId::current(), Some(before));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let mut request = get("/");
    request
        .headers_mut()
        .extend(map(&[("x-request-id", "outer")]));
    let answer = outer.oneshot(request).await.expect("infallible");
    assert_eq!(only_header(&answer, "x-request-id"), "outer");
    drop(answer);
    let told: Vec<_> = lines
        .take_access()
        .into_iter()
        .map(|line| [&line["request_id"], &line["outcome"], &line["protocol"]].map(String::clone))
        .collect();
    assert_eq!(
        told,
        [["inner", "panic", "grpc"], ["outer", "ok", "http/1.1"]]
    );
}

#[tokio::test]
async fn a_call_within_a_call_that_hands_the_id_on_is_still_a_call_of_its_own() {
    let lines = Lines::listen();
    let outer = stack!(service_fn(|_: Request<Body>| async {
        let inner = stack!(service_fn(|_: Request<Body>| async {
            if true {
                panic!("in the inner call");
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let mut request = post("application/grpc");
        let id = RequestId::current().expect("within a call");
        request
            .headers_mut()
            .insert(REQUEST_ID, id.header().clone());
        let answer = inner.oneshot(request).await.expect("infallible");
        assert_eq!(header(&answer, "grpc-status"), Some("13"));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    outer.oneshot(get("/")).await.expect("infallible");
    let outcomes: Vec<_> = lines
        .take_access()
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["panic", "ok"]);
}

#[tokio::test]
async fn a_request_that_another_call_carries_out_keeps_its_own_id() {
    // Call A hands its request over, and call B runs the rest of A's layers within its own.
    let handed = Arc::new(Mutex::new(None::<Request<Body>>));
    let slot = Arc::clone(&handed);
    let keeps = RequestIdLayer::new().layer(service_fn(move |request: Request<Body>| {
        *slot.lock().expect("not poisoned") = Some(request);
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    }));
    let mut a = get("/");
    a.headers_mut().extend(map(&[("x-request-id", "call-a")]));
    keeps.oneshot(a).await.expect("infallible");
    let runs = RequestIdLayer::new().layer(service_fn(move |_: Request<Body>| {
        let a = handed
            .lock()
            .expect("not poisoned")
            .take()
            .expect("handed over");
        async move {
            let rest = CatchPanicLayer::new().layer(RequestIdLayer::new().layer(service_fn(
                |_: Request<Body>| async {
                    let id = RequestId::current().expect("within a call");
                    Ok::<_, Infallible>(Response::new(Body::from(id.to_string())))
                },
            )));
            let answer = rest.oneshot(a).await.expect("infallible");
            let id = answer
                .into_body()
                .collect()
                .await
                .expect("no error")
                .to_bytes();
            assert_eq!(
                RequestId::current().expect("within a call").as_str(),
                "call-b"
            );
            Ok::<_, Infallible>(Response::new(Body::from(id)))
        }
    }));
    let mut b = get("/");
    b.headers_mut().extend(map(&[("x-request-id", "call-b")]));
    let answer = runs.oneshot(b).await.expect("infallible");
    let id = answer
        .into_body()
        .collect()
        .await
        .expect("no error")
        .to_bytes();
    assert_eq!(id, "call-a");
}

#[tokio::test]
async fn a_call_that_passes_a_buffer_between_two_layers_keeps_its_id() {
    let lines = Lines::listen();
    let handler = service_fn(|request: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::from(seen(request).await)))
    });
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .buffer(8)
        .layer(CatchPanicLayer::new())
        .service(handler);
    let mut request = get("/");
    request
        .headers_mut()
        .extend(map(&[("x-request-id", "buffered")]));
    let answer = service.oneshot(request).await.expect("the buffer lives");
    let body = answer
        .into_body()
        .collect()
        .await
        .expect("no error")
        .to_bytes();
    assert_eq!(body, "buffered");
    assert_eq!(lines.one()["request_id"], "buffered");
}

#[tokio::test]
async fn what_a_call_notes_behind_a_buffer_is_in_its_line() {
    let lines = Lines::listen();
    let handler = service_fn(|request: Request<Body>| async move {
        access_log::field("tenant", "acme");
        if request.uri().path() == "/panic" {
            panic!("behind the buffer");
        }
        let steps = [Step::Data(b"ok"), Step::Panic("in the body")];
        Ok::<_, Infallible>(Response::new(Body::new(Script::of(steps))))
    });
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .buffer(8)
        .layer(CatchPanicLayer::new())
        .service(handler);
    for (path, outcome, error) in [
        ("/panic", "panic", "behind the buffer"),
        ("/body", "body_panic", "in the body"),
    ] {
        let answer = service.clone().oneshot(get(path)).await.expect("it lives");
        drop(answer.into_body().collect().await);
        let line = lines.one();
        assert_eq!(line["outcome"], outcome, "{line:?}");
        assert_eq!(
            line.get("error").map(String::as_str),
            Some(error),
            "{line:?}"
        );
    }
}

/// Sees its own id at each of its awaits, also in tasks of its own, and in the body.
async fn winding(request: Request<Body>) -> Response<Body> {
    let id = request
        .extensions()
        .get::<RequestId>()
        .cloned()
        .expect("an id");
    let mut dice = Dice(id.as_str().bytes().map(u64::from).sum());
    for _ in 0..dice.roll(5) {
        assert_eq!(RequestId::current().as_ref(), Some(&id));
        match dice.roll(4) {
            0 => Yield::default().await,
            1 => tokio::task::yield_now().await,
            2 => {
                let expected = id.clone();
                let task = tokio::spawn(in_current_call(async move {
                    for _ in 0..3 {
                        assert_eq!(RequestId::current().as_ref(), Some(&expected));
                        tokio::task::yield_now().await;
                    }
                    tracing::info!(target: "test", id = expected.as_str());
                }));
                task.await.expect("it saw its own");
            }
            _ => {
                let task = tokio::spawn(async { RequestId::current() });
                assert_eq!(task.await.expect("no panic"), None);
            }
        }
    }
    tracing::info!(target: "test", id = id.as_str());
    let told = id.clone();
    let chunks = tokio_stream::StreamExt::map(tokio_stream::iter(0..3), move |_| {
        assert_eq!(RequestId::current().as_ref(), Some(&told));
        Ok::<_, Infallible>(Bytes::from_static(b"."))
    });
    Response::new(Body::from_stream(chunks))
}

#[test]
fn a_thousand_calls_at_once_each_see_their_own_id() {
    let lines = Lines::default();
    let dispatch = lines.dispatch();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)))
        .build()
        .expect("a runtime");
    let ids = runtime.block_on(async {
        tokio::spawn(async {
            let app = Router::new().route("/", on_get(winding)).layer(
                ServiceBuilder::new()
                    .layer(RequestIdLayer::new())
                    .layer(AccessLogLayer::new().call_span())
                    .layer(CatchPanicLayer::new()),
            );
            let address = serve(app).await;
            let clients = [http1(), http2()];
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..1_000 {
                let client = clients[number % 2].clone();
                calls.spawn(async move {
                    let mut request = get("/");
                    let id = format!("call-{number}");
                    let value = id.parse().expect("a value");
                    request.headers_mut().insert(REQUEST_ID, value);
                    let response = ask(&client, address, request).await;
                    assert_eq!(only_header(&response, "x-request-id"), id);
                    assert_eq!(response.status(), 200, "{id} saw another id");
                    let body = response.into_body().collect().await;
                    assert_eq!(body.expect("no error").to_bytes(), "...");
                    id
                });
            }
            calls.join_all().await
        })
        .await
        .expect("no panic")
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    let lines = lines.take();
    let mut logged: Vec<_> = Vec::new();
    for line in &lines {
        match line["target"].as_str() {
            "test" => assert_eq!(line["id"], line["current"]),
            "plimsoll::access" => {
                assert_eq!(line["request_id"], line["current"]);
                assert_eq!(line["outcome"], "ok");
                logged.push(line["request_id"].clone());
            }
            other => panic!("{other}: {line:?}"),
        }
    }
    let mut ids = ids;
    ids.sort();
    logged.sort();
    assert_eq!(logged, ids);
}

#[tokio::test]
async fn interleaved_polls_of_one_task_do_not_mix_their_calls() {
    let stack = stack!(service_fn(|request: Request<Body>| async {
        Ok::<_, Infallible>(winding(request).await)
    }));
    let mut dice = Dice(1);
    let mut running: Vec<_> = (0..100)
        .map(|number| {
            let mut request = get("/");
            let value = format!("call-{number}").parse().expect("a value");
            request.headers_mut().insert(REQUEST_ID, value);
            Box::pin(stack.clone().call(request))
        })
        .collect();
    std::future::poll_fn(|context| {
        while !running.is_empty() {
            let at = usize::try_from(dice.roll(running.len() as u64)).expect("small");
            // Some end, some are dropped in the midst.
            let is_over = if dice.roll(50) == 0 {
                true
            } else if let std::task::Poll::Ready(answer) = running[at].as_mut().poll(context) {
                assert_eq!(answer.expect("infallible").status(), 200);
                true
            } else {
                false
            };
            assert_eq!(RequestId::current(), None);
            if is_over {
                drop(running.swap_remove(at));
            }
            if dice.roll(10) == 0 {
                // The tasks that they wait for run now.
                context.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
        }
        std::task::Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn destructors_of_a_task_see_the_id_of_its_call() {
    struct Last(Arc<Mutex<Option<RequestId>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            *self.0.lock().expect("not poisoned") = RequestId::current();
        }
    }
    let seen = Arc::new(Mutex::new(None));
    let last = Last(Arc::clone(&seen));
    let mut last = Some(last);
    let mut service = RequestIdLayer::new().layer(service_fn(move |_: Request<Body>| {
        let last = last.take().expect("called once");
        async move {
            let task = tokio::spawn(in_current_call(async move {
                let _last = last;
                std::future::pending::<()>().await;
            }));
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.expect_err("aborted").is_cancelled());
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    }));
    let mut request = get("/");
    request
        .headers_mut()
        .extend(map(&[("x-request-id", "mine")]));
    service.call(request).await.expect("infallible");
    let seen = seen.lock().expect("not poisoned").clone();
    assert_eq!(seen.expect("within a call").as_str(), "mine");
}
