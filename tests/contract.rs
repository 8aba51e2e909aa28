//! The laws of `Service`, for every layer: a new layer is a new row at the end.

#[path = "contract/probe.rs"]
mod probe;

use std::{error::Error, rc::Rc};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry::{metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use plimsoll::{
    client::{self, deadline::DeadlineLayer, propagate::PropagateLayer},
    limit::Limit,
    rejection::Rejection,
    server::{
        access_log::AccessLogLayer,
        back_pressure::BackPressureLayer,
        body_limit::BodyLimitLayer,
        catch_panic::CatchPanicLayer,
        load_shed::LoadShedLayer,
        metrics::MetricsLayer,
        rate_limit::{Key, Quota, RateLimitLayer},
        request_id::RequestIdLayer,
        timeout::TimeoutLayer,
        trace_context::TraceContextLayer,
    },
};
use probe::{Gate, OnOneThread, Probe, ProbeBody, ProbeError};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, layer::layer_fn};

/// A row: the laws, for one layer.
macro_rules! laws {
    ($name:ident, $layer:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn calls_the_very_instance_that_was_ready() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(probe);
                service.ready().await.expect("a probe is ready");
                let mut clone = service.clone();
                service.call(request()).await.expect("it answers");
                assert_eq!(
                    seen.unready(),
                    0,
                    "an instance was called that nobody had asked"
                );
                clone.call(request()).await.expect("it answers");
                assert_eq!(seen.unready(), 1, "the clone of a ready service was ready");
                clone
                    .ready()
                    .await
                    .expect("a probe is ready")
                    .call(request())
                    .await
                    .expect("it answers");
                assert_eq!((seen.unready(), seen.calls()), (1, 3));
            }

            #[tokio::test]
            async fn readiness_is_that_of_the_inner_service() {
                let (mock, mut handle) =
                    tower_test::mock::pair::<Request<Full<Bytes>>, Response<ProbeBody>>();
                let mut service = $layer.layer(mock);
                let mut asking = task::spawn(());
                handle.allow(0);
                assert_pending!(asking.enter(|context, _| service.poll_ready(context)));
                handle.allow(1);
                assert!(asking.is_woken(), "the waker of poll_ready was lost");
                assert_ready_ok!(asking.enter(|context, _| service.poll_ready(context)));
            }

            #[tokio::test]
            async fn an_error_of_readiness_passes_unchanged() {
                let (mock, mut handle) =
                    tower_test::mock::pair::<Request<Full<Bytes>>, Response<ProbeBody>>();
                let mut service = $layer.layer(mock);
                handle.send_error(ProbeError(5));
                let mut asking = task::spawn(());
                let error =
                    assert_ready_err!(asking.enter(|context, _| service.poll_ready(context)));
                assert_eq!(error.to_string(), ProbeError(5).to_string());
            }

            #[tokio::test]
            async fn a_pending_future_wakes_and_answers() {
                let gate = Gate::default();
                let (probe, _) = Probe::new();
                let mut service = $layer.layer(Probe {
                    gate: gate.clone(),
                    ..probe
                });
                gate.close();
                let mut call = task::spawn(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert!(call.poll().is_pending());
                assert!(!call.is_woken());
                gate.open();
                assert!(call.is_woken(), "the waker of the future was lost");
                assert_eq!(assert_ready_ok!(call.poll()).status(), StatusCode::OK);
            }

            #[tokio::test]
            async fn a_pending_body_wakes_and_goes_on() {
                let gate = Gate::default();
                let (probe, _) = Probe::new();
                let body = ProbeBody {
                    gate: gate.clone(),
                    ..ProbeBody::of(["late"])
                };
                let service = $layer.layer(Probe { body, ..probe });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                gate.close();
                let mut polling = task::spawn(());
                assert!(
                    polling
                        .enter(|context, _| body.as_mut().poll_frame(context))
                        .is_pending()
                );
                gate.open();
                assert!(polling.is_woken(), "the waker of the body was lost");
                let frame =
                    assert_ready!(polling.enter(|context, _| body.as_mut().poll_frame(context)));
                assert_eq!(
                    frame
                        .expect("a frame")
                        .expect("no error")
                        .into_data()
                        .expect("data"),
                    "late"
                );
            }

            #[tokio::test]
            async fn a_dropped_future_gives_all_back() {
                let gate = Gate::default();
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    gate: gate.clone(),
                    ..probe
                });
                let at_rest = seen.held();
                gate.close();
                // Before the first poll, and after it.
                drop(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert_eq!(seen.held(), at_rest);
                let mut call = task::spawn(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                assert!(call.poll().is_pending());
                assert!(seen.held() > at_rest);
                drop(call);
                assert_eq!(seen.held(), at_rest);
                gate.open();
                service
                    .ready()
                    .await
                    .expect("it goes on")
                    .call(request())
                    .await
                    .expect("it answers");
                assert_eq!(seen.held(), at_rest);
            }

            #[tokio::test]
            async fn a_dropped_body_gives_all_back() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    body: ProbeBody::of(["one", "two"]),
                    ..probe
                });
                let at_rest = seen.held();
                for frames in 0..=2 {
                    let answer = service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request())
                        .await;
                    let mut body = Box::pin(answer.expect("it answers").into_body());
                    for _ in 0..frames {
                        body.frame().await.expect("a frame").expect("no error");
                    }
                    assert!(seen.held() > at_rest);
                    drop(body);
                    assert_eq!(seen.held(), at_rest, "after {frames} frames");
                }
            }

            #[tokio::test]
            async fn a_body_that_has_ended_stays_ended() {
                let (probe, _) = Probe::new();
                let service = $layer.layer(Probe {
                    body: ProbeBody::of(["one"]),
                    ..probe
                });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                assert!(body.frame().await.is_some());
                for _ in 0..3 {
                    assert!(body.frame().await.is_none());
                    assert!(body.is_end_stream());
                    assert_eq!(body.size_hint().exact(), Some(0));
                }
            }

            #[tokio::test]
            async fn errors_pass_unchanged() {
                let (probe, seen) = Probe::new();
                let mut service = $layer.layer(Probe {
                    fails: true,
                    ..probe
                });
                let at_rest = seen.held();
                let error: ProbeError =
                    match service.ready().await.expect("ready").call(request()).await {
                        Err(error) => error,
                        Ok(_) => panic!("an error became an answer"),
                    };
                assert_eq!((error, seen.held()), (ProbeError(7), at_rest));
            }

            #[tokio::test]
            async fn errors_of_the_body_pass_unchanged() {
                let (probe, _) = Probe::new();
                let body = ProbeBody {
                    fails: true,
                    ..ProbeBody::of(["one"])
                };
                let service = $layer.layer(Probe { body, ..probe });
                let mut body = Box::pin(
                    service
                        .oneshot(request())
                        .await
                        .expect("it answers")
                        .into_body(),
                );
                body.frame().await.expect("a frame").expect("no error yet");
                let error = body
                    .frame()
                    .await
                    .expect("a frame")
                    .expect_err("the body fails");
                let error: Box<dyn Error + Send + Sync> = error.into();
                assert_eq!(error.downcast_ref(), Some(&ProbeError(8)), "{error}");
                assert!(body.frame().await.is_none(), "nothing comes after an error");
            }

            #[tokio::test]
            async fn a_body_keeps_its_size_its_end_and_its_frames() {
                for (body, size, frames) in [
                    (ProbeBody::of([]), Some(0), vec![]),
                    (
                        ProbeBody::of(["one", "three"]),
                        Some(8),
                        vec!["one", "three"],
                    ),
                    (
                        ProbeBody {
                            unsized_: true,
                            ..ProbeBody::of(["one", "three"])
                        },
                        None,
                        vec!["one", "three"],
                    ),
                    (
                        ProbeBody {
                            trailers: true,
                            ..ProbeBody::of(["one"])
                        },
                        Some(3),
                        vec!["one", "trailers"],
                    ),
                ] {
                    let (probe, _) = Probe::new();
                    let service = $layer.layer(Probe { body, ..probe });
                    let mut body = Box::pin(
                        service
                            .oneshot(request())
                            .await
                            .expect("it answers")
                            .into_body(),
                    );
                    assert_eq!(body.size_hint().exact(), size);
                    assert_eq!(body.is_end_stream(), frames.is_empty());
                    let mut left = frames.len();
                    for expected in frames {
                        match body
                            .frame()
                            .await
                            .expect("a frame")
                            .expect("no error")
                            .into_data()
                        {
                            Ok(data) => assert_eq!(data, expected),
                            Err(frame) => {
                                assert_eq!(expected, "trailers");
                                assert_eq!(
                                    frame.into_trailers().expect("trailers")["x-checksum"],
                                    "9"
                                );
                            }
                        }
                        left -= 1;
                        assert_eq!(body.is_end_stream(), left == 0, "{left} frames left");
                    }
                    assert!(body.frame().await.is_none());
                }
            }

            #[tokio::test]
            async fn a_request_keeps_all_it_had() {
                let (probe, seen) = Probe::new();
                let service = $layer.layer(probe);
                let mut request = Request::put("/a/b?c=d")
                    .header("x-own", "kept")
                    .body(Full::from("body"))
                    .expect("valid");
                request.extensions_mut().insert("an extension");
                service.oneshot(request).await.expect("it answers");
                let request = seen.last();
                assert_eq!(
                    (request.method(), request.uri().to_string().as_str()),
                    (&Method::PUT, "/a/b?c=d")
                );
                assert_eq!(request.headers()["x-own"], "kept");
                assert_eq!(request.extensions().get::<&str>(), Some(&"an extension"));
                let body = request.into_body().collect().await.expect("a body");
                assert_eq!(body.to_bytes(), "body");
            }

            #[tokio::test]
            async fn an_answer_keeps_all_it_had() {
                let (probe, _) = Probe::new();
                let answer = $layer
                    .layer(probe)
                    .oneshot(request())
                    .await
                    .expect("it answers");
                assert_eq!(
                    (answer.status(), answer.version()),
                    (StatusCode::OK, http::Version::HTTP_2)
                );
                assert_eq!(answer.headers()["x-own"], "kept");
                assert_eq!(answer.extensions().get::<&str>(), Some(&"an extension"));
            }

            #[tokio::test]
            async fn is_send_and_sync_when_the_inner_service_is() {
                fn is_send<T: Send>(value: T) -> T {
                    value
                }
                fn is_sync<T: Sync>(value: T) -> T {
                    value
                }
                let mut service = is_sync(is_send($layer.layer(Probe::new().0)));
                let call = is_send(
                    service
                        .ready()
                        .await
                        .expect("a probe is ready")
                        .call(request()),
                );
                is_sync(is_send(call.await.expect("it answers").into_body()));
            }

            #[tokio::test]
            async fn asks_no_send_of_the_inner_service() {
                let service = $layer.layer(OnOneThread(Rc::new(())));
                let answer = service.oneshot(request()).await.expect("it answers");
                assert_eq!(
                    answer
                        .into_body()
                        .collect()
                        .await
                        .expect("a body")
                        .to_bytes(),
                    "rc"
                );
            }

            #[tokio::test]
            async fn works_in_a_router_that_axum_serves() {
                let routes = || {
                    Router::new()
                        .route("/a", get(async || "a").post(async |body: Bytes| body))
                        .route("/b/{id}", get(async || "b"))
                };
                for app in [routes().layer($layer), routes().route_layer($layer)] {
                    serves_many_calls_on_many_connections(
                        app.route("/outside", get(async || "outside")),
                    )
                    .await;
                }
            }
        }
    };
}

/// Calls of two methods and three routes, at once, over connections of their own and over shared ones.
async fn serves_many_calls_on_many_connections(app: Router) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    for http2 in [false, true] {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let client = Client::builder(TokioExecutor::new())
                .http2_only(http2)
                .build_http::<Full<Bytes>>();
            for (method, path, status, body) in [
                (Method::GET, "/a", 200, "a"),
                (Method::POST, "/a", 200, "sent"),
                (Method::GET, "/b/7", 200, "b"),
                (Method::GET, "/outside", 200, "outside"),
                (Method::DELETE, "/a", 405, ""),
                (Method::GET, "/nowhere", 404, ""),
            ] {
                for _ in 0..3 {
                    let client = client.clone();
                    let request = Request::builder()
                        .method(method.clone())
                        .uri(format!("http://{address}{path}"));
                    let request = request.body(Full::from("sent")).expect("valid");
                    calls.spawn(async move {
                        let answer = client.request(request).await.expect("an answer");
                        assert_eq!(answer.status(), status, "{path}");
                        assert_eq!(
                            answer
                                .into_body()
                                .collect()
                                .await
                                .expect("a body")
                                .to_bytes(),
                            body,
                            "{path}"
                        );
                    });
                }
            }
        }
        assert_eq!(calls.join_all().await.len(), 72);
    }
    server.abort();
    assert!(server.await.expect_err("it was aborted").is_cancelled());
}

fn request() -> Request<Full<Bytes>> {
    Request::get("/").body(Full::default()).expect("valid")
}

/// What each layer answers in place of the service: a row is a layer around a service that makes it reject.
#[tokio::test]
async fn a_rejection_is_right_in_every_protocol() {
    let panics = tower::service_fn(
        async |_: Request<Full<Bytes>>| -> Result<Response<ProbeBody>, ProbeError> {
            panic!("a secret")
        },
    );
    let catch_panic = (CatchPanicLayer::new().layer(panics), "panic", 500, "13");
    for (service, reason, status, code) in [catch_panic] {
        for (content_type, http_status, answered_with) in [
            (None, status, "application/problem+json"),
            (Some("application/json"), status, "application/problem+json"),
            (Some("application/grpc"), 200, "application/grpc"),
            (Some("application/grpc+proto"), 200, "application/grpc"),
            (
                Some("application/grpc;charset=utf-8"),
                200,
                "application/grpc",
            ),
            (
                Some("application/grpc-web+proto"),
                200,
                "application/grpc-web+proto",
            ),
            (
                Some("application/grpc-web-text"),
                200,
                "application/grpc-web-text+proto",
            ),
            (
                Some("application/grpcish"),
                status,
                "application/problem+json",
            ),
        ] {
            let mut asked = Request::post("/");
            if let Some(content_type) = content_type {
                asked = asked.header("content-type", content_type);
            }
            let app = ServiceBuilder::new()
                .layer(RequestIdLayer::new())
                .service(service.clone());
            let answer = app
                .oneshot(asked.body(Full::default()).expect("valid"))
                .await
                .expect("a rejection is an answer");
            let header = |name: &str| {
                answer
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().expect("ASCII"))
            };
            assert_eq!(answer.status().as_u16(), http_status, "{content_type:?}");
            assert_eq!(
                header("content-type"),
                Some(answered_with),
                "{content_type:?}"
            );
            assert_eq!(header("plimsoll-reason"), Some(reason));
            assert!(header("x-request-id").is_some());
            assert_eq!(
                header("grpc-status"),
                (http_status == 200).then_some(code),
                "{content_type:?}"
            );
            assert_eq!(
                header("cache-control"),
                (http_status != 200).then_some("no-store")
            );
            assert!(
                answer.extensions().get::<Rejection>().is_some(),
                "outer layers tell by it why"
            );
            let id = header("x-request-id").expect("it was there").to_owned();
            let told = answer.into_body().collect().await.expect("a whole body");
            assert!(told.trailers().is_none(), "trailers-only");
            let body = told.to_bytes();
            assert!(!String::from_utf8_lossy(&body).contains("secret"));
            if http_status == 200 {
                assert!(body.is_empty());
            } else {
                let problem: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(
                    (&problem["status"], &problem["reason"]),
                    (&status.into(), &reason.into())
                );
                assert_eq!(problem["request_id"], id.as_str());
                assert!(problem["type"].is_string() && problem["title"].is_string());
            }
        }
    }
}

// --- the rows -----------------------------------------------------------------------------------------------------

laws!(request_id, RequestIdLayer::new());
laws!(access_log, AccessLogLayer::new());
laws!(access_log_with_a_span, AccessLogLayer::new().call_span());
laws!(catch_panic, CatchPanicLayer::new());
laws!(propagate, PropagateLayer::new());
laws!(rate_limit, generous());
laws!(timeout, all_timeouts());
laws!(body_limit, BodyLimitLayer::default());
laws!(load_shed, LoadShedLayer::new(Limit::adaptive()));
laws!(back_pressure, BackPressureLayer::new(Limit::adaptive()));
laws!(
    back_pressure_that_holds_connections,
    BackPressureLayer::new(Limit::adaptive()).hold_connections()
);
laws!(deadline_of_a_client, DeadlineLayer::new());
laws!(
    metrics,
    MetricsLayer::new(&SdkMeterProvider::default().meter("laws"))
);
laws!(
    trace_context,
    TraceContextLayer::new(SdkTracerProvider::default().tracer("laws"))
);
laws!(trace_context_in_tracing, TraceContextLayer::in_tracing());
laws!(
    trace_context_of_a_client,
    client::trace_context::TraceContextLayer::new(SdkTracerProvider::default().tracer("laws"))
);
laws!(
    in_the_recommended_order,
    ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AccessLogLayer::new())
        .layer(CatchPanicLayer::new())
        .into_inner()
);
laws!(
    in_the_reverse_order,
    ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(AccessLogLayer::new())
        .layer(RequestIdLayer::new())
        .into_inner()
);
/// All limits at once, none of which a law reaches.
fn all_timeouts() -> TimeoutLayer {
    let hour = std::time::Duration::from_secs(3_600);
    TimeoutLayer::new().total(hour).idle(hour)
}

/// A limit that no law reaches.
fn generous() -> RateLimitLayer {
    let quota = Quota::per_second(1_000_000).whole().expect("a quota");
    RateLimitLayer::new(Key::everyone(), quota)
}

// The yardstick of the laws: no layer at all.
laws!(bare, layer_fn(|inner| inner));
