//! The laws of `Service`, for every layer: a new layer is a new row at the end.

#[macro_use]
mod laws;
mod probe;
mod rejections;
mod served;

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
use served::serves_many_calls_on_many_connections;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, layer::layer_fn};

fn request() -> Request<Full<Bytes>> {
    Request::get("/").body(Full::default()).expect("valid")
}

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
        .layer(TraceContextLayer::new(
            SdkTracerProvider::default().tracer("laws")
        ))
        .layer(AccessLogLayer::new())
        .layer(MetricsLayer::new(
            &SdkMeterProvider::default().meter("laws")
        ))
        .layer(all_timeouts())
        .layer(generous())
        .layer(BackPressureLayer::new(Limit::adaptive()))
        .layer(BodyLimitLayer::default())
        .layer(CatchPanicLayer::new())
        .into_inner()
);
laws!(
    in_the_reverse_order,
    ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(BodyLimitLayer::default())
        .layer(BackPressureLayer::new(Limit::adaptive()))
        .layer(generous())
        .layer(all_timeouts())
        .layer(MetricsLayer::new(
            &SdkMeterProvider::default().meter("laws")
        ))
        .layer(AccessLogLayer::new())
        .layer(TraceContextLayer::new(
            SdkTracerProvider::default().tracer("laws")
        ))
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

laws!(
    switched_off,
    ServiceBuilder::new()
        .layer(RequestIdLayer::new().enabled(false))
        .layer(TraceContextLayer::new(SdkTracerProvider::default().tracer("laws")).enabled(false))
        .layer(AccessLogLayer::new().enabled(false))
        .layer(MetricsLayer::new(&SdkMeterProvider::default().meter("laws")).enabled(false))
        .layer(all_timeouts().enabled(false))
        .layer(generous().enabled(false))
        .layer(BackPressureLayer::new(Limit::adaptive()).enabled(false))
        .layer(LoadShedLayer::new(Limit::adaptive()).enabled(false))
        .layer(BodyLimitLayer::default().enabled(false))
        .layer(CatchPanicLayer::new().enabled(false))
        .into_inner()
);

// The yardstick of the laws: no layer at all.
laws!(bare, layer_fn(|inner| inner));
