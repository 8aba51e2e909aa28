//! The span of a call, in both ways there are to make one, sampled and not.
//!
//! Spans are handed to a processor that forgets them: queues and exporters run on threads of their own, or lose what is
//! too much for them. The peers end their spans at the head.

use std::time::Duration;

use opentelemetry::{Context, global, trace::TracerProvider};
use opentelemetry_instrumentation_tower::http::server;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use plimsoll::server::trace_context::TraceContextLayer;
use tower_layer::Layer;
use tower_otel::trace::HttpLayer;
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("trace_context/admitted", BARE_ROUTER, || {
        routed(TraceContextLayer::new(tracer(Sampler::AlwaysOn)))
    }),
    Case::ours("trace_context/admitted/sf", BARE_SERVICE, || {
        let layer = TraceContextLayer::new(tracer(Sampler::AlwaysOn));
        Subject::service(layer.layer(service()), Traffic::menu())
    }),
    Case::ours("trace_context/unsampled", BARE_ROUTER, || {
        routed(TraceContextLayer::new(tracer(Sampler::AlwaysOff)))
    }),
    Case::ours("trace_context/in_tracing", BARE_ROUTER, || {
        subscribe(Sampler::AlwaysOn);
        routed(TraceContextLayer::in_tracing())
    }),
    Case::ours("trace_context/in_tracing/unsampled", BARE_ROUTER, || {
        subscribe(Sampler::AlwaysOff);
        routed(TraceContextLayer::in_tracing())
    }),
    Case::peer("trace_context/tower-otel", BARE_ROUTER, || {
        subscribe(Sampler::AlwaysOn);
        let router = router().layer(HttpLayer::server(Level::INFO));
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer(
        "trace_context/opentelemetry-instrumentation-tower",
        BARE_ROUTER,
        || {
            global::set_tracer_provider(provider(Sampler::AlwaysOn));
            let layer = server::LayerBuilder::builder().with_metrics(false).build();
            let router = router().layer(layer.expect("all has a default"));
            Subject::service(router.with_state(()), Traffic::menu())
        },
    ),
];

fn routed(layer: TraceContextLayer) -> Subject {
    Subject::service(router().layer(layer).with_state(()), Traffic::menu())
}

fn subscribe(sampler: Sampler) {
    let layer = tracing_opentelemetry::layer().with_tracer(tracer(sampler));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).expect("the first one");
}

fn tracer(sampler: Sampler) -> SdkTracer {
    provider(sampler).tracer("benches")
}

fn provider(sampler: Sampler) -> SdkTracerProvider {
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(Forgets)
        .build();
    // Its tracers would make no more spans if it were shut down.
    std::mem::forget(provider.clone());
    provider
}

#[derive(Debug)]
struct Forgets;

impl SpanProcessor for Forgets {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
