//! Each call has one id, which its handlers, its lines, its response and its outbound calls bear.

mod calls;
#[path = "../common/mod.rs"]
mod common;

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::StatusCode,
    routing::{get as on_get, post as on_post},
};
use bytes::Bytes;
use common::{
    Dice, Lines, Script, Yield,
    body::{Step, map},
    get, grpc, header, only_header, post,
    wire::{ask, http1, http2, raw, read_until, serve},
};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use plimsoll::{
    context::{REQUEST_ID, RequestId, in_current_call},
    server::{
        access_log::{self, AccessLogLayer},
        catch_panic::CatchPanicLayer,
        request_id::{RequestIdLayer, Trust},
    },
};
use tokio::io::AsyncWriteExt as _;
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _, service_fn};

/// The id in the request's extensions, which is also that of the task, the header and tower-http.
async fn seen(request: Request<Body>) -> String {
    let id = request.extensions().get::<RequestId>().cloned();
    let id = id.expect("an id in the extensions");
    assert_eq!(RequestId::current().as_ref(), Some(&id));
    assert_eq!(request.headers().get_all(REQUEST_ID).iter().count(), 1);
    assert_eq!(request.headers()[REQUEST_ID], id.as_str());
    let others = request
        .extensions()
        .get::<tower_http::request_id::RequestId>();
    assert_eq!(others.expect("tower-http's").header_value(), id.as_str());
    id.to_string()
}

/// Two routes, three methods and an error.
fn routes() -> Router {
    Router::new()
        .route("/a", on_get(seen).post(seen))
        .route("/b/{id}", on_post(seen))
        .route("/err", on_get(|| async { StatusCode::BAD_GATEWAY }))
}

/// All layers, in the order that is recommended.
fn app() -> Router {
    routes().layer(
        ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
            .layer(CatchPanicLayer::new()),
    )
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("no error");
    String::from_utf8(bytes.to_bytes().to_vec()).expect("UTF-8")
}

/// Calls the app with these headers; the id on the response is that of the handler, and of the line.
async fn id_of(app: Router, headers: &[(&str, &[u8])]) -> (String, Option<String>) {
    let lines = Lines::listen();
    let mut request = get("/a");
    for (name, value) in headers {
        request.headers_mut().append(
            name.parse::<HeaderName>().expect("a name"),
            HeaderValue::from_bytes(value).expect("a value"),
        );
    }
    let response = app.oneshot(request).await.expect("infallible");
    let id = only_header(&response, "x-request-id").to_owned();
    assert_eq!(text(response).await, id);
    let line = lines.one();
    assert_eq!(line["request_id"], id);
    assert_eq!(line["current"], id);
    (id, line.get("request_id_replaced").cloned())
}

fn is_uuid(id: &str, version: u8) -> bool {
    let dashes: Vec<_> = id.match_indices('-').map(|(at, _)| at).collect();
    id.len() == 36 && dashes == [8, 13, 18, 23] && id.as_bytes()[14] == b'0' + version
}

#[tokio::test]
async fn a_call_without_an_id_gets_a_fresh_one() {
    let (first, replaced) = id_of(app(), &[]).await;
    let (second, _) = id_of(app(), &[]).await;
    assert!(
        is_uuid(&first, 4) && is_uuid(&second, 4),
        "{first} {second}"
    );
    assert_ne!(first, second);
    assert_eq!(replaced, None);
}

#[tokio::test]
async fn a_well_formed_id_is_kept() {
    let longest = "x".repeat(128);
    for id in ["a", "-", "A.b_c-9", "..", longest.as_str()] {
        for name in ["x-request-id", "X-Correlation-ID"] {
            let (kept, replaced) = id_of(app(), &[(name, id.as_bytes())]).await;
            assert_eq!((kept.as_str(), replaced), (id, None), "{name}");
        }
    }
}

#[tokio::test]
async fn any_other_id_is_replaced_and_never_echoed_or_logged() {
    let long = "x".repeat(129);
    let very_long = "canary-".repeat(5_000);
    for bad in [
        &b""[..],
        b" ",
        b"canary a",
        b"canary\ta",
        b"canary\"",
        b"canary,canary",
        b"canary;x",
        b"canary/../x",
        b"canary%0a",
        b"canary=",
        b"canary\xe9",
        b"\x80\xff",
        "canary\u{202e}".as_bytes(),
        "caf\u{e9}".as_bytes(),
        b"{canary}",
        b"$(canary)",
        b"<canary>",
        b"canary:1",
        b"canary\\n",
        b"'canary'",
        long.as_bytes(),
        very_long.as_bytes(),
    ] {
        for name in ["x-request-id", "x-correlation-id"] {
            let (id, replaced) = id_of(app(), &[(name, bad)]).await;
            assert!(is_uuid(&id, 4), "{bad:?} gave {id}");
            assert_eq!(replaced.as_deref(), Some("true"), "{bad:?}");
        }
    }
}

#[tokio::test]
async fn an_id_that_is_there_twice_is_replaced() {
    for second in ["one", "two"] {
        let sent: [(&str, &[u8]); 2] = [
            ("x-request-id", b"one"),
            ("x-request-id", second.as_bytes()),
        ];
        let (id, replaced) = id_of(app(), &sent).await;
        assert!(is_uuid(&id, 4), "{id}");
        assert_eq!(replaced.as_deref(), Some("true"));
    }
}

#[tokio::test]
async fn the_first_header_that_is_present_counts() {
    let both: [(&str, &[u8]); 2] = [("x-correlation-id", b"second"), ("x-request-id", b"first")];
    assert_eq!(id_of(app(), &both).await, ("first".to_owned(), None));

    let layer = RequestIdLayer::new().inbound_headers([HeaderName::from_static("x-trace-id")]);
    let app = || routes().layer(AccessLogLayer::new()).layer(layer.clone());
    let (id, replaced) = id_of(app(), &[("x-trace-id", b"trace-7")]).await;
    assert_eq!((id.as_str(), replaced), ("trace-7", None));
    // A header that is not asked for neither counts nor survives.
    let (id, replaced) = id_of(app(), &[("x-request-id", b"\x80 forged")]).await;
    assert!(is_uuid(&id, 4));
    assert_eq!(replaced, None);
}

#[tokio::test]
async fn at_the_edge_every_id_is_replaced() {
    let edge = || {
        let layer = RequestIdLayer::new().trust(Trust::Replace);
        routes().layer(AccessLogLayer::new()).layer(layer)
    };
    let (id, replaced) = id_of(edge(), &[("x-request-id", b"fine")]).await;
    assert!(is_uuid(&id, 4));
    assert_eq!(replaced.as_deref(), Some("true"));
    assert_eq!(id_of(edge(), &[]).await.1, None);
}

#[tokio::test]
async fn ids_are_made_as_asked_for() {
    let v7 = routes()
        .layer(AccessLogLayer::new())
        .layer(RequestIdLayer::new().uuid_v7());
    assert!(is_uuid(&id_of(v7, &[]).await.0, 7));

    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let own = RequestIdLayer::new().make_with(move || {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        RequestId::parse(format!("own-{number}")).expect("an id")
    });
    let app = || routes().layer(AccessLogLayer::new()).layer(own.clone());
    assert_eq!(id_of(app(), &[]).await.0, "own-0");
    assert_eq!(id_of(app(), &[("x-request-id", b"kept")]).await.0, "kept");
    assert_eq!(id_of(app(), &[]).await.0, "own-1");
    assert_eq!(made.load(Ordering::Relaxed), 2, "asked only when needed");
}

#[tokio::test]
async fn every_response_bears_the_id_whatever_became_of_the_call() {
    let broken = service_fn(|request: Request<Body>| async move {
        Ok::<_, Infallible>(match request.uri().path() {
            "/own" => {
                let mut response = Response::new(Body::empty());
                response
                    .headers_mut()
                    .extend(map(&[("x-request-id", "of the handler")]));
                response
                    .headers_mut()
                    .append("x-request-id", HeaderValue::from_static("twice"));
                response
            }
            "/panic" => panic!("no"),
            _ => Response::new(Body::new(Script::of([Step::Fail("oh".into())]))),
        })
    });
    let app = Router::new()
        .merge(routes())
        .route_service("/own", broken)
        .route_service("/panic", broken)
        .route_service("/body", broken)
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new())
        .layer(RequestIdLayer::new());
    let with_method = |method: &str, path| {
        let mut request = get(path);
        *request.method_mut() = method.parse().expect("a method");
        request
    };
    let mut grpc_panic = post("application/grpc");
    *grpc_panic.uri_mut() = "/panic".parse().expect("a path");
    let mut web_panic = post("application/grpc-web+proto");
    *web_panic.uri_mut() = "/panic".parse().expect("a path");
    for (request, status) in [
        (get("/a"), 200),
        (with_method("HEAD", "/a"), 200),
        (with_method("OPTIONS", "/a"), 405),
        (with_method("WHATEVER", "/a"), 405),
        (get("/b/7"), 405),
        (get("/nowhere"), 404),
        (get("/err"), 502),
        (get("/own"), 200),
        (get("/body"), 200),
        (get("/panic"), 500),
        (with_method("HEAD", "/panic"), 500),
        (grpc_panic, 200),
        (web_panic, 200),
    ] {
        let case = format!("{} {}", request.method(), request.uri());
        let lines = Lines::listen();
        let response = app.clone().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), status, "{case}");
        let id = only_header(&response, "x-request-id").to_owned();
        assert!(is_uuid(&id, 4), "{case}: {id}");
        drop(response.into_body().collect().await);
        assert_eq!(lines.one()["request_id"], id, "{case}");
    }
}

#[tokio::test]
async fn a_layer_that_is_applied_twice_leaves_the_id_of_the_first() {
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let layer = RequestIdLayer::new().make_with(move || {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        RequestId::parse(format!("own-{number}")).expect("an id")
    });
    let app = routes()
        .layer(layer.clone())
        .layer(AccessLogLayer::new())
        .layer(layer);
    assert_eq!(id_of(app, &[]).await.0, "own-0");
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn it_may_stand_inside_of_the_access_log() {
    let app = || {
        routes()
            .layer(RequestIdLayer::new())
            .layer(AccessLogLayer::new())
    };
    let (id, replaced) = id_of(app(), &[("x-request-id", b"no good")]).await;
    assert!(is_uuid(&id, 4));
    assert_eq!(replaced.as_deref(), Some("true"));
    assert_eq!(id_of(app(), &[("x-request-id", b"good")]).await.0, "good");
}

#[tokio::test]
async fn a_router_that_was_not_given_its_state_can_be_called() {
    #[derive(Clone)]
    struct Shop;
    let app: Router<Shop> = Router::new()
        .route("/a", on_get(|State(Shop): State<Shop>| async { "open" }))
        .layer(RequestIdLayer::new());
    let response = app
        .with_state(Shop)
        .oneshot(get("/a"))
        .await
        .expect("infallible");
    assert!(is_uuid(only_header(&response, "x-request-id"), 4));
    let app: Router = Router::new()
        .route("/a", on_get(seen))
        .layer(RequestIdLayer::new());
    let id = text(app.oneshot(get("/a")).await.expect("infallible")).await;
    assert!(is_uuid(&id, 4));
}

// ---- on the wire

#[tokio::test]
async fn every_call_of_a_connection_has_its_own_id() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    let mut ids = HashSet::new();
    for client in [http1(), http2()] {
        for path in ["/a", "/b/7", "/nowhere"] {
            for method in ["GET", "POST", "HEAD"] {
                let mut request = get(path);
                *request.method_mut() = method.parse().expect("a method");
                let response = ask(&client, address, request).await;
                ids.insert(only_header(&response, "x-request-id").to_owned());
                response.into_body().collect().await.expect("no error");
            }
        }
    }
    assert_eq!(ids.len(), 18);
    let logged = lines.access(18).await;
    let logged: HashSet<_> = logged
        .into_iter()
        .map(|line| line["request_id"].clone())
        .collect();
    assert_eq!(logged, ids);
}

#[tokio::test]
async fn forged_ids_do_not_pass_a_raw_socket() {
    let lines = Lines::listen();
    let address = serve(app()).await;
    for forged in [
        "x-request-id: canary one\r\n".to_owned(),
        "x-request-id: canary\r\nx-request-id: canary\r\n".to_owned(),
        "x-request-id:\tcanary\tx\r\n".to_owned(),
        "x-request-id:\r\n".to_owned(),
        format!("x-request-id: {}\r\n", "canary".repeat(1_000)),
        "x-request-id: canary\u{e9}\r\n".to_owned(),
        "x-correlation-id: canary\u{9b}31m\r\n".to_owned(),
    ] {
        let request = format!("GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{forged}\r\n");
        let answer = raw(address, request.as_bytes()).await;
        let answer = String::from_utf8(answer.to_vec()).expect("no byte of the caller's");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("canary"), "{answer}");
        let line = lines.access(1).await.remove(0);
        assert_eq!(line["request_id_replaced"], "true");
        assert!(!format!("{line:?}").contains("canary"), "{line:?}");
    }
}

#[tokio::test]
async fn a_caller_that_expects_to_be_asked_for_its_body_is_asked_only_if_it_is_read() {
    let lines = Lines::listen();
    let app = Router::new()
        .route("/read", on_post(|body: String| async { body }))
        .route("/unread", on_post(|| async { "no need" }))
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new())
        .layer(RequestIdLayer::new());
    let address = serve(app).await;
    for (path, answers) in [
        ("/read", ["HTTP/1.1 100", "HTTP/1.1 200"]),
        ("/unread", ["HTTP/1.1 200"; 2]),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("it listens");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(answers[0]), "{answer}");
        if path == "/read" {
            stream.write_all(b"hello").await.expect("it reads");
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(answer.starts_with(answers[1]), "{answer}");
            assert!(answer.contains("x-request-id: "), "{answer}");
            assert_eq!(read_until(&mut stream, "hello").await, "hello");
        } else {
            assert!(answer.contains("x-request-id: "), "{answer}");
        }
        drop(stream);
        let line = lines.access(1).await.remove(0);
        assert_eq!(line["outcome"], "ok", "{path}");
        assert_eq!(
            line["bytes_in"],
            if path == "/read" { "5" } else { "0" },
            "{path}"
        );
    }
}

#[tokio::test]
async fn tonic_servers_give_ids_in_the_head_also_of_errors() {
    let lines = Lines::listen();
    let (address, incoming) = grpc::listen().await;
    let layers = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new());
    let refusing =
        tonic::service::interceptor::InterceptorLayer::new(|request: tonic::Request<()>| {
            match request.metadata().get("x-refuse") {
                Some(_) => Err(tonic::Status::permission_denied("no")),
                None => Ok(request),
            }
        });
    let server = tonic::transport::Server::builder()
        .layer(layers)
        .layer(refusing)
        .add_service(grpc::Calls);
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = grpc::channel(address).await;
    let id_in = |metadata: &tonic::metadata::MetadataMap| {
        let ids: Vec<_> = metadata.get_all("x-request-id").iter().collect();
        assert_eq!(ids.len(), 1, "{metadata:?}");
        ids[0].to_str().expect("ASCII").to_owned()
    };
    let mut ids = Vec::new();
    ids.push(id_in(
        grpc::one(channel.clone(), "ok")
            .await
            .expect("ok")
            .metadata(),
    ));
    for (message, code) in [
        ("fail", tonic::Code::FailedPrecondition),
        ("panic", tonic::Code::Internal),
    ] {
        let status = grpc::one(channel.clone(), message)
            .await
            .expect_err(message);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
        ids.push(id_in(status.metadata()));
    }
    let refused = tonic::service::interceptor::InterceptedService::new(
        channel.clone(),
        |mut request: tonic::Request<()>| {
            let yes = tonic::metadata::MetadataValue::from_static("1");
            request.metadata_mut().insert("x-refuse", yes);
            Ok(request)
        },
    );
    let status = grpc::one(refused, "ok").await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    ids.push(id_in(status.metadata()));
    let logged = lines.access(4).await;
    for (line, id) in logged.iter().zip(&ids) {
        assert_eq!(line["request_id"], *id);
        assert!(is_uuid(id, 4));
    }
    let outcomes: Vec<_> = logged.iter().map(|line| line["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["ok", "client_error", "panic", "client_error"]);
}
