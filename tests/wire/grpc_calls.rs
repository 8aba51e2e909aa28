//! Calls of gRPC and gRPC-Web.

use super::*;

/// Serves `test.Calls` with tonic's own server.
pub(super) async fn tonic_server<L>(layers: L) -> SocketAddr
where
    L: Layer<tonic::service::Routes> + Clone + Send + 'static,
    L::Service: Service<
            Request<tonic::body::Body>,
            Response = Response<<L::Service as Answers>::Body>,
            Error: Into<tonic::codegen::StdError> + Send,
            Future: Send,
        > + Answers
        + Clone
        + Send
        + Sync
        + 'static,
{
    let (address, incoming) = grpc::listen().await;
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .layer(layers)
        .add_service(grpc::Calls);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// The body of a service's answers, to name it.
pub(super) trait Answers {
    type Body: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    type Body = B;
}

#[tokio::test]
async fn calls_of_grpc_end_as_their_callers_see() {
    let lines = Lines::listen();
    let channel = grpc::channel(tonic_server(layers!()).await).await;
    for (message, code, outcome, status) in [
        ("hi", None, "ok", "OK"),
        (
            "fail",
            Some(tonic::Code::FailedPrecondition),
            "client_error",
            "FAILED_PRECONDITION",
        ),
        ("panic", Some(tonic::Code::Internal), "panic", "INTERNAL"),
    ] {
        let answer = grpc::one(channel.clone(), message).await;
        assert_eq!(
            answer.as_ref().err().map(tonic::Status::code),
            code,
            "{message}"
        );
        if let Ok(answer) = answer {
            assert_eq!(answer.into_inner(), message);
        }
        let line = lines.access(1).await.remove(0);
        assert_eq!(
            fields(
                &line,
                ["protocol", "path", "status", "outcome", "grpc_status"]
            ),
            ["grpc", "/test.Calls/One", "200", outcome, status]
        );
    }
    for (message, code, outcome, status) in [
        ("hi", None, "ok", "OK"),
        (
            "fail",
            Some(tonic::Code::FailedPrecondition),
            "client_error",
            "FAILED_PRECONDITION",
        ),
        (
            "cut",
            Some(tonic::Code::FailedPrecondition),
            "client_error",
            "FAILED_PRECONDITION",
        ),
        (
            "panic",
            Some(tonic::Code::Internal),
            "body_panic",
            "INTERNAL",
        ),
    ] {
        let answer = grpc::many(channel.clone(), message).await;
        let ended = match answer {
            Err(status) => Err(status),
            Ok(answer) => answer.into_inner().collect::<Result<Vec<_>, _>>().await,
        };
        let failed = ended.as_ref().err();
        assert_eq!(
            failed.map(tonic::Status::code),
            code,
            "{message}: {failed:?}"
        );
        assert!(!format!("{failed:?}").contains("secret"), "{failed:?}");
        let line = lines.access(1).await.remove(0);
        assert_eq!(
            fields(&line, ["outcome", "grpc_status"]),
            [outcome, status],
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_stream_of_grpc_whose_reader_goes_away_is_told_as_such() {
    let lines = Lines::listen();
    let channel = grpc::channel(tonic_server(layers!()).await).await;
    let mut answer = grpc::many(channel.clone(), "hang")
        .await
        .expect("a stream")
        .into_inner();
    assert_eq!(
        answer
            .message()
            .await
            .expect("no error")
            .expect("a message"),
        "hang"
    );
    drop(answer);
    let line = lines.access(1).await.remove(0);
    assert_eq!(
        fields(&line, ["outcome", "bytes_out", "grpc_status"]),
        ["client_gone_body", "9", "-"]
    );
    // Calls of one connection are read in their order: the answer to the second shows that the first has come.
    let hangs = grpc::one(channel.clone(), "hang");
    tokio::select! {
        biased;
        _ = hangs => panic!("it hangs"),
        answer = grpc::one(channel, "hi") => drop(answer.expect("an answer")),
    }
    let told = lines.access(2).await;
    let outcomes: Vec<_> = told.iter().map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ok", "client_gone"]);
}

#[tokio::test]
async fn a_call_to_a_method_that_is_not_there_is_told_as_its_caller_sees_it() {
    let lines = Lines::listen();
    // tonic's routes answer with a status, axum's with a 404: clients make the same of both.
    let tonics = tonic_server(layers!()).await;
    let axums = serve(
        Router::new()
            .route("/", on_get(|| async {}))
            .layer(layers!()),
    )
    .await;
    for (address, outcome) in [(tonics, "server_error"), (axums, "client_error")] {
        let mut client = tonic::client::Grpc::new(grpc::channel(address).await);
        client.ready().await.expect("connected");
        let status = client
            .unary::<Bytes, Bytes, _>(
                tonic::Request::new(Bytes::new()),
                http::uri::PathAndQuery::from_static("/test.Nothing/At"),
                grpc::Raw,
            )
            .await
            .expect_err("not there");
        assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
        assert_eq!(lines.access(1).await[0]["outcome"], outcome);
    }
}

// ---- gRPC-Web

/// A message and, in the answer, trailers: frames of gRPC-Web.
fn frame(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0], &length[..], message.as_bytes()].concat()
}

fn web_request(method: &str, content_type: &str, message: &str) -> Request<Body> {
    let message = frame(message);
    let message = match content_type.contains("text") {
        true => base64(&message),
        false => message,
    };
    Request::builder()
        .method("POST")
        .uri(format!("/test.Calls/{method}"))
        .header("content-type", content_type)
        .header("accept", content_type)
        .body(Body::from(message))
        .expect("a request")
}

fn base64(text: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in text.chunks(3) {
        let byte = |at: usize| usize::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
    out
}

/// Undoes base64 whose pieces may be padded each.
fn unbase64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for group in text.chunks(4) {
        let value = |byte: &u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => 0,
            other => panic!("{other} is no base64"),
        };
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 6 | u32::from(value(byte)));
        let padding = group.iter().filter(|&&byte| byte == b'=').count();
        out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    out
}

/// The messages of an answer of gRPC-Web, and its status, wherever it is.
async fn web_answer<B>(response: Response<B>) -> (Vec<String>, String)
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    assert_eq!(response.status(), 200);
    let in_head = response.headers().get("grpc-status").cloned();
    let is_text = response.headers()["content-type"]
        .to_str()
        .expect("ASCII")
        .contains("text");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("no error")
        .to_bytes();
    let body = if is_text {
        unbase64(&body)
    } else {
        body.to_vec()
    };
    let (mut messages, mut statuses) = (Vec::new(), Vec::new());
    statuses.extend(in_head.map(|status| status.to_str().expect("ASCII").to_owned()));
    let mut rest = &body[..];
    while let [flag, a, b, c, d, after @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).expect("short");
        let (text, after) = after.split_at(length);
        let text = String::from_utf8(text.to_vec()).expect("UTF-8");
        match flag & 0x80 {
            0 => messages.push(text),
            _ => statuses.extend(
                text.lines()
                    .filter_map(|line| line.strip_prefix("grpc-status:"))
                    .map(|status| status.trim().to_owned()),
            ),
        }
        rest = after;
    }
    assert_eq!(rest, b"");
    assert_eq!(statuses.len(), 1, "one status: {statuses:?}");
    (messages, statuses.remove(0))
}

async fn web_calls_end_as_their_callers_see(address: SocketAddr, lines: &Lines, protocol: &str) {
    for client in [http1(), http2()] {
        for content_type in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc-web-text+proto",
        ] {
            for (method, message, messages, status, outcome, name) in [
                ("One", "hi", 1, "0", "ok", "OK"),
                ("One", "fail", 0, "9", "client_error", "FAILED_PRECONDITION"),
                ("One", "panic", 0, "13", "panic", "INTERNAL"),
                ("Many", "hi", 1, "0", "ok", "OK"),
                (
                    "Many",
                    "fail",
                    0,
                    "9",
                    "client_error",
                    "FAILED_PRECONDITION",
                ),
                ("Many", "cut", 1, "9", "client_error", "FAILED_PRECONDITION"),
                ("Many", "panic", 1, "13", "body_panic", "INTERNAL"),
            ] {
                let case = format!("{content_type} {method} {message}");
                let request = at(address, web_request(method, content_type, message));
                let response = client.request(request).await.expect("an answer");
                assert!(response.headers().contains_key("x-request-id"), "{case}");
                let (got, told) = web_answer(response).await;
                assert_eq!((got.len(), told.as_str()), (messages, status), "{case}");
                let line = lines.access(1).await.remove(0);
                assert_eq!(
                    fields(&line, ["protocol", "outcome", "grpc_status"]),
                    [protocol, outcome, name],
                    "{case}"
                );
            }
        }
    }
}

#[tokio::test]
async fn calls_of_grpc_web_end_as_their_callers_see_with_the_translator_inside() {
    let lines = Lines::listen();
    let layers = layers!().layer(tonic_web::GrpcWebLayer::new());
    web_calls_end_as_their_callers_see(tonic_server(layers).await, &lines, "grpc-web").await;
}

#[tokio::test]
async fn calls_of_grpc_web_end_as_their_callers_see_with_the_translator_outside() {
    let lines = Lines::listen();
    let layers = ServiceBuilder::new()
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(layers!().into_inner());
    web_calls_end_as_their_callers_see(tonic_server(layers).await, &lines, "grpc").await;
}

#[tokio::test]
async fn calls_of_grpc_web_end_as_their_callers_see_with_the_translator_between() {
    let lines = Lines::listen();
    let layers = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(CatchPanicLayer::new());
    web_calls_end_as_their_callers_see(tonic_server(layers).await, &lines, "grpc-web").await;
}

#[tokio::test]
async fn the_form_that_a_caller_accepts_need_not_be_the_one_that_it_sends() {
    let lines = Lines::listen();
    let layers = layers!().layer(tonic_web::GrpcWebLayer::new());
    let address = tonic_server(layers).await;
    for (sent, accepted) in [
        (
            "application/grpc-web+proto",
            "application/grpc-web-text+proto",
        ),
        (
            "application/grpc-web-text+proto",
            "application/grpc-web+proto",
        ),
        ("application/grpc-web-text+proto", "*/*"),
    ] {
        for (message, status, outcome) in [("hi", "0", "ok"), ("panic", "13", "body_panic")] {
            let mut request = web_request("Many", sent, message);
            request
                .headers_mut()
                .insert("accept", HeaderValue::from_static(accepted));
            let response = ask(&http1(), address, request).await;
            assert_eq!(web_answer(response).await.1, status, "{sent} {accepted}");
            assert_eq!(
                lines.access(1).await[0]["outcome"],
                outcome,
                "{sent} {accepted}"
            );
        }
    }
}

#[tokio::test]
async fn one_port_serves_every_protocol() {
    let lines = Lines::listen();
    let routes = tonic::service::Routes::new(grpc::Calls)
        .prepare()
        .into_axum_router();
    let app = Router::new()
        .route("/hello", on_get(|| async { "hello" }))
        .merge(routes)
        .layer(layers!());
    let address = serve(app).await;
    ask(&http1(), address, get("/hello"))
        .await
        .into_body()
        .collect()
        .await
        .expect("no error");
    grpc::one(grpc::channel(address).await, "hi")
        .await
        .expect("ok");
    let status = grpc::one(grpc::channel(address).await, "panic")
        .await
        .expect_err("it panics");
    assert_eq!(status.code(), tonic::Code::Internal);
    let told: Vec<_> = lines
        .access(3)
        .await
        .iter()
        .map(|line| fields(line, ["protocol", "route", "outcome"]).map(str::to_owned))
        .collect();
    assert_eq!(
        told,
        [
            ["http/1.1", "/hello", "ok"],
            ["grpc", "/test.Calls/{*rest}", "ok"],
            ["grpc", "/test.Calls/{*rest}", "panic"],
        ]
    );
}
