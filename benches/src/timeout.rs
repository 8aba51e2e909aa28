//! Time limits. A handler that is ready at once needs no timer, and one that is pending has one.

use std::time::Duration;

use plimsoll::server::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};
use tower_http::timeout::TimeoutLayer as PeerLayer;
use tower_layer::Layer;

use crate::{
    bases::{BARE_ROUTER, BARE_ROUTER_YIELDS, BARE_SERVICE, FRAMED_ROUTER, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const CASES: &[Case] = &[
    Case::ours("timeout/admitted", BARE_ROUTER, || {
        routed(TimeoutLayer::new(), Traffic::menu())
    }),
    Case::ours("timeout/admitted/sf", BARE_SERVICE, || {
        Subject::service(TimeoutLayer::new().layer(service()), Traffic::menu())
    }),
    Case::ours("timeout/all_limits", BARE_ROUTER, || {
        routed(
            TimeoutLayer::new().total(LIMIT).idle(LIMIT),
            Traffic::menu(),
        )
    }),
    // What it adds to a call that has a layer of ours already.
    Case::ours("timeout/joined", FRAMED_ROUTER, || {
        let layers = (TimeoutLayer::new(), CatchPanicLayer::new());
        let router = router().layer(layers);
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::ours("timeout/pending", BARE_ROUTER_YIELDS, || {
        routed(TimeoutLayer::new().total(LIMIT), Traffic::menu().yielding())
    }),
    Case::ours("timeout/rejected", BARE_ROUTER, || {
        let traffic = Traffic::menu().with_header("grpc-timeout", "0S");
        let traffic = traffic.with_header("content-type", "application/grpc");
        routed(TimeoutLayer::new(), traffic)
    }),
    Case::peer("timeout/tower-http/admitted", BARE_ROUTER, || {
        let router = router().layer(peer());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("timeout/tower-http/admitted/sf", BARE_SERVICE, || {
        Subject::service(peer().layer(service()), Traffic::menu())
    }),
    Case::peer("timeout/tower-http/pending", BARE_ROUTER_YIELDS, || {
        let router = router().layer(peer());
        Subject::service(router.with_state(()), Traffic::menu().yielding())
    }),
];

fn routed(layer: TimeoutLayer, traffic: Traffic) -> Subject {
    Subject::service(router().layer(layer).with_state(()), traffic)
}

fn peer() -> PeerLayer {
    PeerLayer::with_status_code(http::StatusCode::GATEWAY_TIMEOUT, LIMIT)
}
