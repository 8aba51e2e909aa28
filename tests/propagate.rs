//! Every attempt of an outbound call bears the id and the trace of the call that makes it, once and unchanged.

mod common;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use common::{
    Dice,
    body::map,
    get, grpc,
    wire::{at, http1, http2, serve},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use plimsoll::{
    client::propagate::PropagateLayer,
    context::{RequestId, TraceContext, in_current_call},
    server::{catch_panic::CatchPanicLayer, request_id::RequestIdLayer},
};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, retry::Policy, service_fn};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A service upstream that records what it is sent, and fails at times.
#[derive(Clone, Default)]
struct Upstream {
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    failures: Arc<AtomicUsize>,
}

impl Upstream {
    async fn serve(&self) -> SocketAddr {
        let this = self.clone();
        let answer = move |request: Request<Body>| {
            let this = this.clone();
            async move {
                let mut seen = this.seen.lock().expect("not poisoned");
                seen.push(request.headers().clone());
                let failing =
                    this.failures
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                            left.checked_sub(1)
                        });
                if failing.is_ok() {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::OK
                }
            }
        };
        serve(Router::new().fallback(any(answer))).await
    }

    fn take(&self) -> Vec<HeaderMap> {
        std::mem::take(&mut *self.seen.lock().expect("not poisoned"))
    }
}

/// All values of a header.
fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().expect("ASCII")).collect()
}

/// Runs this within a call with an id and a trace.
async fn in_a_call<F>(id: &str, code: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let code = Mutex::new(Some(code));
    let output = Arc::new(Mutex::new(None));
    let out = Arc::clone(&output);
    let service = RequestIdLayer::new().layer(service_fn(move |_: Request<Body>| {
        let code = code
            .lock()
            .expect("not poisoned")
            .take()
            .expect("called once");
        let out = Arc::clone(&out);
        async move {
            let made = code.await;
            *out.lock().expect("not poisoned") = Some(made);
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    }));
    let request = Request::builder()
        .header("x-request-id", id)
        .header("traceparent", PARENT)
        .header("tracestate", "a=1")
        .header("tracestate", "b=2,c=3")
        .body(Body::empty());
    drop(service.oneshot(request.expect("a request")).await);
    let made = output.lock().expect("not poisoned").take();
    made.expect("it ran")
}

fn is_handed_on(headers: &HeaderMap, id: &str) {
    assert_eq!(all(headers, "x-request-id"), [id]);
    assert_eq!(all(headers, "traceparent"), [PARENT]);
    assert_eq!(all(headers, "tracestate"), ["a=1,b=2,c=3"]);
}

#[tokio::test]
async fn a_client_of_hyper_hands_them_on() {
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    for client in [http1(), http2()] {
        let client = PropagateLayer::new().layer(client);
        for id in ["one", "two"] {
            let client = client.clone();
            in_a_call(id, async move {
                client
                    .oneshot(at(address, get("/")))
                    .await
                    .expect("an answer")
            })
            .await;
            let seen = upstream.take();
            assert_eq!(seen.len(), 1);
            is_handed_on(&seen[0], id);
        }
    }
}

#[tokio::test]
async fn nothing_is_added_outside_of_a_call_and_in_a_bare_task() {
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    let client = PropagateLayer::new().layer(http1());
    client
        .clone()
        .oneshot(at(address, get("/")))
        .await
        .expect("an answer");
    let bare = client.clone();
    in_a_call("one", async move {
        let task = tokio::spawn(bare.oneshot(at(address, get("/"))));
        task.await.expect("no panic").expect("an answer")
    })
    .await;
    for headers in upstream.take() {
        for name in ["x-request-id", "traceparent", "tracestate"] {
            assert!(all(&headers, name).is_empty(), "{headers:?}");
        }
    }
    for carried in [true, false] {
        let client = client.clone();
        in_a_call("one", async move {
            let call = client.oneshot(at(address, get("/")));
            if carried {
                drop(tokio::spawn(in_current_call(call)).await.expect("no panic"));
            } else {
                drop(
                    plimsoll::task::spawn("outbound", call)
                        .await
                        .expect("no panic"),
                );
            }
        })
        .await;
        is_handed_on(&upstream.take()[0], "one");
    }
}

#[tokio::test]
async fn what_a_request_bears_already_is_kept() {
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    let client = PropagateLayer::new().layer(PropagateLayer::new().layer(http1()));
    let own_parent = "00-11111111111111111111111111111111-2222222222222222-00";
    for (sent, id, parent, state) in [
        (
            vec![("x-request-id", "own")],
            "own",
            PARENT,
            Some("a=1,b=2,c=3"),
        ),
        (vec![("traceparent", own_parent)], "call", own_parent, None),
        (
            vec![("traceparent", own_parent), ("tracestate", "x=9")],
            "call",
            own_parent,
            Some("x=9"),
        ),
        (
            vec![("tracestate", "x=9")],
            "call",
            PARENT,
            Some("a=1,b=2,c=3"),
        ),
    ] {
        let mut request = at(address, get("/"));
        request.headers_mut().extend(map(&sent));
        let client = client.clone();
        in_a_call("call", async move {
            client.oneshot(request).await.expect("an answer")
        })
        .await;
        let seen = upstream.take().remove(0);
        assert_eq!(all(&seen, "x-request-id"), [id], "{sent:?}");
        assert_eq!(all(&seen, "traceparent"), [parent], "{sent:?}");
        assert_eq!(
            all(&seen, "tracestate"),
            state.into_iter().collect::<Vec<_>>(),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn a_malformed_trace_is_not_handed_on() {
    for bad in [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "nonsense",
    ] {
        let asked = PropagateLayer::new().layer(service_fn(|request: Request<Body>| async move {
            assert!(TraceContext::current().is_none());
            assert!(!request.headers().contains_key("traceparent"));
            assert!(!request.headers().contains_key("tracestate"));
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let service = RequestIdLayer::new().layer(service_fn(move |_: Request<Body>| {
            asked.clone().oneshot(get("/"))
        }));
        let mut request = get("/");
        request
            .headers_mut()
            .insert("traceparent", bad.parse().expect("a value"));
        request
            .headers_mut()
            .insert("tracestate", "a=1".parse().expect("a value"));
        service.oneshot(request).await.expect("infallible");
    }
}

// ---- retries

/// Tries again while the answer is 503.
#[derive(Clone)]
struct Again(usize);

impl<B, E> Policy<Request<Body>, Response<B>, E> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<B>, E>,
    ) -> Option<Self::Future> {
        let failed = result
            .as_ref()
            .is_ok_and(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE);
        (failed && self.0 > 0).then(|| {
            self.0 -= 1;
            std::future::ready(())
        })
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut clone = Request::new(Body::empty());
        *clone.uri_mut() = request.uri().clone();
        *clone.headers_mut() = request.headers().clone();
        Some(clone)
    }
}

#[tokio::test]
async fn each_attempt_bears_them_once_and_unchanged() {
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    let mut dice = Dice(3);
    let client = http2();
    for number in 0..1_000 {
        let failures = usize::try_from(dice.roll(4)).expect("small");
        upstream.failures.store(failures, Ordering::Relaxed);
        let id = format!("call-{number}");
        let client = client.clone();
        // Next to the client, around the retries, or both.
        let place = number % 3;
        in_a_call(&id, async move {
            let request = at(address, get("/"));
            let layer = PropagateLayer::new();
            let stack = ServiceBuilder::new();
            let answer = match place {
                0 => {
                    stack
                        .retry(Again(4))
                        .layer(layer)
                        .service(client)
                        .oneshot(request)
                        .await
                }
                1 => {
                    stack
                        .layer(layer)
                        .retry(Again(4))
                        .service(client)
                        .oneshot(request)
                        .await
                }
                _ => {
                    let stack = stack.layer(layer).retry(Again(4)).layer(layer);
                    stack.service(client).oneshot(request).await
                }
            };
            assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
        })
        .await;
        let seen = upstream.take();
        assert_eq!(seen.len(), failures + 1);
        for headers in &seen {
            is_handed_on(headers, &id);
        }
    }
}

#[tokio::test]
async fn calls_that_share_a_pool_of_connections_do_not_mix() {
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    let app = {
        let client = PropagateLayer::new().layer(http2());
        let forward = move |request: Request<Body>| {
            let client = client.clone();
            async move {
                let id = request
                    .extensions()
                    .get::<RequestId>()
                    .cloned()
                    .expect("an id");
                for round in 0..3 {
                    tokio::task::yield_now().await;
                    let mut outbound = at(address, get("/"));
                    let expected = format!("{id}.{round}").parse().expect("a value");
                    outbound.headers_mut().insert("x-expected", expected);
                    client.clone().oneshot(outbound).await.expect("an answer");
                }
                id.to_string()
            }
        };
        Router::new().fallback(any(forward)).layer(
            ServiceBuilder::new()
                .layer(RequestIdLayer::new())
                .layer(CatchPanicLayer::new()),
        )
    };
    let front = serve(app).await;
    let client = http2();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..300 {
        let client = client.clone();
        calls.spawn(async move {
            let mut request = at(front, get("/"));
            let id = format!("call-{number}");
            request
                .headers_mut()
                .insert("x-request-id", id.parse().expect("a value"));
            let answer = client.request(request).await.expect("an answer");
            let body = answer
                .into_body()
                .collect()
                .await
                .expect("no error")
                .to_bytes();
            assert_eq!(body, id);
        });
    }
    calls.join_all().await;
    let seen = upstream.take();
    assert_eq!(seen.len(), 900);
    for headers in seen {
        let expected = all(&headers, "x-expected")[0];
        let (id, _) = expected.rsplit_once('.').expect("a round");
        assert_eq!(all(&headers, "x-request-id"), [id]);
    }
}

// ---- other clients

#[tokio::test]
async fn a_channel_of_tonic_hands_them_on_as_metadata() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (address, incoming) = grpc::listen().await;
    let record = Arc::clone(&seen);
    let recording =
        tonic::service::interceptor::InterceptorLayer::new(move |request: tonic::Request<()>| {
            let headers = request.metadata().clone().into_headers();
            record.lock().expect("not poisoned").push(headers);
            Ok(request)
        });
    let server = tonic::transport::Server::builder()
        .layer(recording)
        .add_service(grpc::Calls);
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = PropagateLayer::new().layer(grpc::channel(address).await);
    for (id, message) in [("one", "hi"), ("two", "fail")] {
        let channel = channel.clone();
        in_a_call(id, async move { grpc::one(channel, message).await.is_ok() }).await;
        let headers = seen.lock().expect("not poisoned").remove(0);
        is_handed_on(&headers, id);
    }
    let streaming = channel.clone();
    in_a_call("three", async move {
        grpc::many(streaming, "hi").await.expect("a stream")
    })
    .await;
    is_handed_on(&seen.lock().expect("not poisoned").remove(0), "three");
}

#[tokio::test]
async fn a_client_of_reqwest_hands_them_on_behind_a_small_adapter() {
    // It is a service of reqwest's own requests, made from those of http.
    let upstream = Upstream::default();
    let address = upstream.serve().await;
    let client = ServiceBuilder::new()
        .layer(PropagateLayer::new())
        .map_request(|request: Request<Bytes>| reqwest::Request::try_from(request).expect("a URL"))
        .service(reqwest::Client::new());
    let request = Request::get(format!("http://{address}/"))
        .body(Bytes::new())
        .expect("a request");
    in_a_call("one", async move {
        client.oneshot(request).await.expect("an answer")
    })
    .await;
    is_handed_on(&upstream.take()[0], "one");
}

#[tokio::test]
async fn a_service_that_is_not_ready_is_asked_and_errors_pass() {
    #[derive(Clone)]
    struct Closed;
    impl Service<Request<Body>> for Closed {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), &'static str>> {
            std::task::Poll::Ready(Err("closed"))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Err("called"))
        }
    }
    let mut service = PropagateLayer::new().layer(Closed);
    assert_eq!(service.ready().await.err(), Some("closed"));
    assert_eq!(service.call(get("/")).await.err(), Some("called"));
}
