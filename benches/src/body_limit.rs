//! Caps of bodies of requests: one that is read, and one that is refused by its length.

use plimsoll::server::body_limit::BodyLimitLayer;
use tower_http::limit::RequestBodyLimitLayer;

use crate::{
    bases::{BARE_ROUTER_ORDERS, router},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("body_limit/admitted", BARE_ROUTER_ORDERS, || {
        let router = router().layer(BodyLimitLayer::new(1_000));
        Subject::service(router.with_state(()), Traffic::order())
    }),
    Case::ours("body_limit/rejected", BARE_ROUTER_ORDERS, || {
        let router = router().layer(BodyLimitLayer::new(10));
        Subject::service(router.with_state(()), Traffic::order().too_large())
    }),
    Case::peer("body_limit/tower-http/admitted", BARE_ROUTER_ORDERS, || {
        let router = router().layer(RequestBodyLimitLayer::new(1_000));
        Subject::service(router.with_state(()), Traffic::order())
    }),
    Case::peer("body_limit/tower-http/rejected", BARE_ROUTER_ORDERS, || {
        let router = router().layer(RequestBodyLimitLayer::new(10));
        Subject::service(router.with_state(()), Traffic::order().too_large())
    }),
];
