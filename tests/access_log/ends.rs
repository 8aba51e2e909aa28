//! How a call ended: outcome, level and error.

use super::*;

#[tokio::test]
async fn each_end_has_its_outcome_level_and_error() {
    let failure = || {
        let mut response = response(503, []);
        response
            .extensions_mut()
            .insert(Failure::new("the disk is full"));
        response
    };
    let rejected = |reason, which| {
        let rejection = Rejection::new(reason, "a_layer").with_which(which);
        let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
        rejection.map(|_| Script::of([]))
    };
    for (case, request, response, expected) in [
        (
            "200",
            get("/"),
            response(200, []),
            ["INFO", "200", "-", "ok", "-"],
        ),
        (
            "304",
            get("/"),
            response(304, []),
            ["INFO", "304", "-", "ok", "-"],
        ),
        (
            "404",
            get("/"),
            response(404, []),
            ["INFO", "404", "-", "client_error", "-"],
        ),
        (
            "500",
            get("/"),
            response(500, []),
            ["ERROR", "500", "-", "server_error", "-"],
        ),
        (
            "503 and why",
            get("/"),
            failure(),
            ["ERROR", "503", "-", "server_error", "the disk is full"],
        ),
        (
            "body error",
            get("/"),
            response(200, [oh()]),
            ["ERROR", "200", "-", "body_error", "oh"],
        ),
        (
            "an error's body breaks",
            get("/"),
            response(404, [oh()]),
            ["ERROR", "404", "-", "body_error", "oh"],
        ),
        (
            "short",
            get("/"),
            with(
                response(200, [Step::Data(b"ok")]),
                &[("content-length", "5")],
            ),
            [
                "ERROR",
                "200",
                "-",
                "body_error",
                "the body ended 3 bytes short of its content-length",
            ],
        ),
        (
            "shed",
            get("/"),
            rejected(Reason::Shed, "a"),
            ["WARN", "503", "-", "shed", "-"],
        ),
        (
            "deadline",
            get("/"),
            rejected(Reason::Deadline, "a"),
            ["WARN", "504", "-", "deadline", "-"],
        ),
        (
            "malformed",
            get("/"),
            rejected(Reason::Malformed, "a"),
            ["INFO", "400", "-", "malformed", "-"],
        ),
        (
            "a timeout of ours",
            get("/"),
            rejected(Reason::Timeout, "a"),
            ["ERROR", "504", "-", "timeout", "-"],
        ),
        (
            "gRPC 0",
            grpc(),
            response(200, [status("0")]),
            ["INFO", "200", "OK", "ok", "-"],
        ),
        (
            "gRPC 5",
            grpc(),
            response(200, [status("5")]),
            ["INFO", "200", "NOT_FOUND", "client_error", "no beans"],
        ),
        (
            "gRPC 1",
            grpc(),
            response(200, [status("1")]),
            ["INFO", "200", "CANCELLED", "client_error", "no beans"],
        ),
        (
            "gRPC 14",
            grpc(),
            response(200, [status("14")]),
            ["ERROR", "200", "UNAVAILABLE", "server_error", "no beans"],
        ),
        (
            "gRPC 99",
            grpc(),
            response(200, [status("99")]),
            ["ERROR", "200", "UNKNOWN", "server_error", "no beans"],
        ),
        (
            "gRPC in the head",
            grpc(),
            with(
                response(200, []),
                &[("grpc-status", "8"), ("grpc-message", "too%20many")],
            ),
            [
                "INFO",
                "200",
                "RESOURCE_EXHAUSTED",
                "client_error",
                "too many",
            ],
        ),
        (
            "gRPC without a status",
            grpc(),
            response(200, [Step::Data(b"ok")]),
            [
                "ERROR",
                "200",
                "INTERNAL",
                "body_error",
                "missing grpc-status",
            ],
        ),
        (
            "gRPC with trailers but no status",
            grpc(),
            response(200, [Step::Trailers(map(&[]))]),
            [
                "ERROR",
                "200",
                "INTERNAL",
                "body_error",
                "missing grpc-status",
            ],
        ),
        (
            "gRPC that breaks",
            grpc(),
            response(200, [oh()]),
            ["ERROR", "200", "INTERNAL", "body_error", "oh"],
        ),
        (
            "gRPC to no route",
            grpc(),
            response(404, []),
            ["INFO", "404", "-", "client_error", "-"],
        ),
        (
            "a status of gRPC is none of HTTP's",
            get("/"),
            response(200, [status("5")]),
            ["INFO", "200", "-", "ok", "-"],
        ),
    ] {
        let line = line_of(request, response).await;
        let told = fields(
            &line,
            ["level", "status", "grpc_status", "outcome", "error"],
        );
        assert_eq!(told, expected, "{case}: {line:#?}");
        let missing = told[3] == "server_error" && told[4] == "-";
        assert_eq!(line.contains_key("error_missing"), missing, "{case}");
    }
}

#[tokio::test]
async fn a_broken_stream_of_grpc_has_the_status_that_its_caller_was_told_whatever_stands_inside() {
    for breaks in [false, true] {
        let lines = Lines::listen();
        let service = service_fn(move |_: Request<Body>| async move {
            let steps = [Some(Step::Data(b"ok")), breaks.then(oh)];
            Ok::<_, Infallible>(response(200, steps.into_iter().flatten()))
        });
        let log = || ServiceBuilder::new().layer(AccessLogLayer::new());
        let alone = log().service(service).oneshot(grpc()).await;
        let got = common::body::read(alone.expect("infallible").into_body()).await;
        assert_eq!(got.trailer("grpc-status"), Some("13"));
        let alone = lines.one();
        let around = log().layer(CatchPanicLayer::new()).service(service);
        let around = around.oneshot(grpc()).await;
        let got = common::body::read(around.expect("infallible").into_body()).await;
        assert_eq!(got.trailer("grpc-status"), Some("13"));
        let around = lines.one();
        let names = ["outcome", "grpc_status", "error"];
        assert_eq!(fields(&alone, names), fields(&around, names));
    }
}

#[tokio::test]
async fn a_rejection_tells_its_layer_and_which() {
    let rejection = Rejection::new(Reason::QueueTimeout, "back_pressure").with_which("idle");
    let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
    let line = line_of(get("/"), rejection.map(|_| Script::of([]))).await;
    assert_eq!(
        fields(&line, ["outcome", "layer", "which"]),
        ["queue_timeout", "back_pressure", "idle"]
    );
}

#[tokio::test]
async fn levels_are_set_for_rejections_and_errors_of_callers() {
    let layer = || {
        AccessLogLayer::new()
            .client_errors_at(Level::DEBUG)
            .rejections_at(Level::TRACE)
    };
    let line = line_by(layer(), get("/"), response(404, [])).await;
    assert_eq!(line["level"], "DEBUG");
    let rejection = Rejection::new(Reason::Shed, "x");
    let rejection = rejection.into_response(plimsoll::protocol::Protocol::Http, None);
    let line = line_by(layer(), get("/"), rejection.map(|_| Script::of([]))).await;
    assert_eq!(line["level"], "TRACE");
    assert_eq!(
        line_by(layer(), get("/"), response(500, [])).await["level"],
        "ERROR"
    );
}

#[tokio::test]
async fn an_error_of_the_service_is_told_with_its_chain() {
    #[derive(Debug)]
    struct NoBeans(std::io::Error);
    impl std::fmt::Display for NoBeans {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no beans")
        }
    }
    impl std::error::Error for NoBeans {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let lines = Lines::listen();
    let service = service_fn(|_: Request<Body>| async {
        let error = NoBeans(std::io::Error::other("the disk is full"));
        Err::<Response<Body>, BoxError>(error.into())
    });
    let answer = AccessLogLayer::new().layer(service).oneshot(get("/")).await;
    assert_eq!(answer.expect_err("it passes").to_string(), "no beans");
    let line = lines.one();
    assert_eq!(
        fields(&line, ["level", "outcome", "error", "status", "ttfb_ms"]),
        [
            "ERROR",
            "server_error",
            "no beans: the disk is full",
            "-",
            "-"
        ]
    );
}

#[tokio::test]
async fn a_failure_keeps_its_cause_through_every_layer() {
    let lines = Lines::listen();
    let app = Router::new()
        .route(
            "/",
            on_get(|| async {
                let failure = Failure::new(std::io::Error::other("the disk is full"));
                (StatusCode::BAD_GATEWAY, axum::Extension(failure))
            }),
        )
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new());
    drop(app.oneshot(get("/")).await);
    assert_eq!(lines.one()["error"], "the disk is full");
}

#[tokio::test]
async fn the_first_cause_is_the_outcome_and_later_ones_are_told_beside_it() {
    let lines = Lines::listen();
    // The request's body breaks, the handler answers 200 all the same, then the response breaks too.
    let app = Router::new()
        .route(
            "/",
            on_post(|request: Request<Body>| async {
                assert!(request.into_body().collect().await.is_err());
                Body::new(Script::of([Step::Data(b"ok"), oh()]))
            }),
        )
        .layer(AccessLogLayer::new());
    let mut request = post("text/plain");
    *request.body_mut() = Body::new(Script::of([Step::Data(b"abc"), Step::Fail("cut".into())]));
    let answer = app.oneshot(request).await.expect("infallible");
    assert!(answer.into_body().collect().await.is_err());
    let line = lines.one();
    assert_eq!(
        fields(&line, ["outcome", "error", "bytes_in"]),
        ["request_body_error", "cut", "3"]
    );
    assert_eq!(line["also"], "body_error: oh");
}

#[tokio::test]
async fn the_callers_end_is_told_as_such() {
    let lines = Lines::listen();
    let mut hanging = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        Yield::default().await;
        std::future::pending::<Result<Response<Script>, Infallible>>().await
    }));
    let mut call = Box::pin(hanging.call(get("/")));
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(call);
    assert_eq!(
        fields(&lines.one(), ["outcome", "level", "status"]),
        ["client_gone", "INFO", "-"]
    );

    let halfway = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(response(200, [Step::Data(b"half"), Step::Hang]))
    }));
    let mut body = halfway
        .oneshot(get("/"))
        .await
        .expect("infallible")
        .into_body();
    body.frame().await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(
        fields(&lines.one(), ["outcome", "level", "status", "bytes_out"]),
        ["client_gone_body", "INFO", "200", "4"]
    );
}
