//! What was asked, and how long it took.

use super::*;

#[tokio::test]
async fn a_line_tells_what_was_asked() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/orders/{id}", on_post(|body: Bytes| async move { body }))
        .layer(AccessLogLayer::new());
    let address = "192.0.2.7:4711"
        .parse::<std::net::SocketAddr>()
        .expect("an address");
    let request = Request::builder()
        .method("POST")
        .uri("/orders/7?token=t0ken&verbose")
        .header("user-agent", "test/1")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .extension(plimsoll::context::PeerAddr(address))
        .body(Body::from("hello"))
        .expect("a request");
    let answer = app.oneshot(request).await.expect("infallible");
    answer.into_body().collect().await.expect("no error");
    let line = lines.one();
    assert_eq!(
        fields(
            &line,
            [
                "event",
                "protocol",
                "method",
                "path",
                "route",
                "bytes_in",
                "bytes_out"
            ]
        ),
        [
            "request",
            "http/1.1",
            "POST",
            "/orders/7?token=REDACTED&REDACTED",
            "/orders/{id}",
            "5",
            "5"
        ]
    );
    assert_eq!(
        fields(&line, ["client", "user_agent", "trace_id", "span_id"]),
        [
            "192.0.2.7",
            "test/1",
            "0af7651916cd43dd8448eb211c80319c",
            "b7ad6b7169203331"
        ]
    );
    assert_eq!(line.get("request_id"), None);
}

#[tokio::test]
async fn strange_requests_have_lines_too() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/", on_get(|| async {}))
        .layer(AccessLogLayer::new());
    let mut strange = get("/");
    strange.headers_mut().insert(
        "user-agent",
        HeaderValue::from_bytes(b"\xff\x80").expect("a value"),
    );
    strange.headers_mut().append(
        "content-type",
        HeaderValue::from_bytes(b"\xff").expect("a value"),
    );
    strange
        .headers_mut()
        .append("content-type", HeaderValue::from_static("application/grpc"));
    strange
        .headers_mut()
        .insert("x-long", "x".repeat(100_000).parse().expect("a value"));
    let mut star = get("/");
    *star.uri_mut() = "*".parse().expect("a URI");
    *star.method_mut() = http::Method::OPTIONS;
    let mut connect = get("/");
    *connect.uri_mut() = "example.com:443".parse().expect("a URI");
    *connect.method_mut() = http::Method::CONNECT;
    let mut absolute = get("/");
    *absolute.uri_mut() = "http://user:pass@example.com/?secret=1"
        .parse()
        .expect("a URI");
    let mut long = get("/");
    *long.uri_mut() = format!("/{}?{}", "p".repeat(30_000), "q".repeat(30_000))
        .parse()
        .expect("a URI");
    for (case, request) in [
        ("no text", strange),
        ("*", star),
        ("connect", connect),
        ("absolute", absolute),
        ("long", long),
    ] {
        let answer = app.clone().oneshot(request).await.expect("infallible");
        drop(answer.into_body().collect().await);
        let line = lines.one();
        let text = format!("{line:?}");
        assert!(
            !text.contains("pass") && !text.contains("secret=1"),
            "{case}: {text}"
        );
        assert!(!text.contains("qqq"), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_the_head_and_of_the_true_end() {
    let lines = Lines::listen();
    let service = AccessLogLayer::new().layer(service_fn(|_: Request<Body>| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(response(200, [Step::Data(b"a"), Step::Data(b"b")]))
    }));
    let answer = service.oneshot(get("/")).await.expect("infallible");
    let mut body = answer.into_body();
    body.frame().await.expect("a frame").expect("data");
    tokio::time::advance(Duration::from_micros(300_500)).await;
    drop(body.collect().await);
    let line = lines.one();
    // The timer's wheel has slots of a millisecond.
    assert!(
        ["20.0", "21.0", "20", "21"].contains(&&*line["ttfb_ms"]),
        "{line:?}"
    );
    assert!(
        ["320.5", "321.5"].contains(&&*line["duration_ms"]),
        "{line:?}"
    );
}
