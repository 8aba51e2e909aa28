//! Counts and durations of calls, into a provider of OpenTelemetry with a reader.
//!
//! The peers do less: none looks past the head. axum-prometheus keeps its samples until its upkeep drains them, which is
//! not in its row. The cases with two threads call one route of one Router from two threads at once: *ns* is what a call
//! takes as each thread sees it, to compare with the case of one thread.

use axum_prometheus::PrometheusMetricLayer;
use opentelemetry::{
    global,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_instrumentation_tower::http::server;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use plimsoll::server::metrics::MetricsLayer;
use tokio::runtime::Builder;
use tower_layer::Layer;
use tower_otel::metrics::HttpLayer;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

const BARE_TWO: &str = "ax/bare/two_threads";

pub(crate) const CASES: &[Case] = &[
    Case::bare(BARE_TWO, || {
        Subject::two_threads(router().with_state(()), Traffic::menu())
    }),
    Case::ours("metrics/admitted", BARE_ROUTER, || {
        let router = router().layer(MetricsLayer::new(&meter()));
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::ours("metrics/admitted/sf", BARE_SERVICE, || {
        let layer = MetricsLayer::new(&meter());
        Subject::service(layer.layer(service()), Traffic::menu())
    }),
    Case::peer("metrics/two_threads", BARE_TWO, || {
        let router = router().layer(MetricsLayer::new(&meter()));
        Subject::two_threads(router.with_state(()), Traffic::menu())
    }),
    Case::peer("metrics/axum-prometheus", BARE_ROUTER, || {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        // It spawns its upkeep, which never runs here.
        let (layer, _handle) = runtime.block_on(async { PrometheusMetricLayer::pair() });
        Subject::service(router().layer(layer).with_state(()), Traffic::menu())
    }),
    Case::peer(
        "metrics/opentelemetry-instrumentation-tower",
        BARE_ROUTER,
        || {
            let router = router().layer(contrib());
            Subject::service(router.with_state(()), Traffic::menu())
        },
    ),
    Case::peer("metrics/tower-otel", BARE_ROUTER, || {
        let router = router().layer(HttpLayer::server(&meter()));
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("metrics/tower-otel/two_threads", BARE_TWO, || {
        let router = router().layer(HttpLayer::server(&meter()));
        Subject::two_threads(router.with_state(()), Traffic::menu())
    }),
];

fn meter() -> Meter {
    let provider = provider();
    let meter = provider.meter("benches");
    // Its instruments would stop recording if it were shut down.
    std::mem::forget(provider);
    meter
}

fn provider() -> SdkMeterProvider {
    // It collects once a minute, as by default.
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    SdkMeterProvider::builder().with_reader(reader).build()
}

fn contrib() -> server::Layer {
    global::set_meter_provider(provider());
    server::LayerBuilder::builder()
        .with_tracing(false)
        .build()
        .expect("all has a default")
}
