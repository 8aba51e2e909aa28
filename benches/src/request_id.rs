//! A request id on the request and on the response.
//!
//! The peer makes its ids with `uuid`, which plimsoll builds with `fast-rng`; Cargo gives all of one
//! build the same features, so that the peer is faster here than with `uuid` as it comes.

use http::HeaderName;
use plimsoll::server::request_id::RequestIdLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_layer::Layer;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("request_id/admitted", BARE_ROUTER, || {
        let router = router().layer(RequestIdLayer::new());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::ours("request_id/admitted/sf", BARE_SERVICE, || {
        Subject::service(RequestIdLayer::new().layer(service()), Traffic::menu())
    }),
    Case::ours("request_id/id_sent", BARE_ROUTER, || {
        let router = router().layer(RequestIdLayer::new());
        Subject::service(router.with_state(()), Traffic::menu().with_id())
    }),
    Case::ours("request_id/uuid_v7", BARE_ROUTER, || {
        let router = router().layer(RequestIdLayer::new().uuid_v7());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("request_id/tower-http/admitted", BARE_ROUTER, || {
        let router = router().layer(ids());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("request_id/tower-http/admitted/sf", BARE_SERVICE, || {
        Subject::service(ids().layer(service()), Traffic::menu())
    }),
    Case::peer("request_id/tower-http/id_sent", BARE_ROUTER, || {
        let router = router().layer(ids());
        Subject::service(router.with_state(()), Traffic::menu().with_id())
    }),
];

/// tower-http's two layers for the job, the outer one first.
pub(crate) fn ids() -> (SetRequestIdLayer<MakeRequestUuid>, PropagateRequestIdLayer) {
    let name = HeaderName::from_static("x-request-id");
    (
        SetRequestIdLayer::new(name.clone(), MakeRequestUuid),
        PropagateRequestIdLayer::new(name),
    )
}
