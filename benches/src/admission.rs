//! A limit of calls in flight: one that is never reached, and one that is.

use std::num::NonZeroUsize;

use axum::{body::Body, extract::Request};
use plimsoll::{
    limit::Limit,
    server::{back_pressure::BackPressureLayer, load_shed::LoadShedLayer},
};
use tower::{Layer, Service, ServiceBuilder};

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("load_shed/admitted", BARE_ROUTER, || {
        let layer = LoadShedLayer::new(Limit::adaptive());
        Subject::service(router().layer(layer).with_state(()), Traffic::menu())
    }),
    Case::ours("load_shed/admitted/sf", BARE_SERVICE, || {
        let layer = LoadShedLayer::new(Limit::adaptive());
        Subject::service(layer.layer(service()), Traffic::menu())
    }),
    Case::ours("load_shed/rejected", BARE_ROUTER, || {
        let layer = LoadShedLayer::new(full(one()));
        let router = router().layer(layer).with_state(());
        Subject::service(router, Traffic::menu().shed())
    }),
    Case::ours("load_shed/rejected/sf", BARE_SERVICE, || {
        let layer = LoadShedLayer::new(full(one()));
        Subject::service(layer.layer(service()), Traffic::menu().shed())
    }),
    Case::ours("back_pressure/admitted", BARE_ROUTER, || {
        let layer = BackPressureLayer::new(Limit::adaptive());
        Subject::service(router().layer(layer).with_state(()), Traffic::menu())
    }),
    Case::ours("back_pressure/admitted/sf", BARE_SERVICE, || {
        let layer = BackPressureLayer::new(Limit::adaptive());
        Subject::service(layer.layer(service()), Traffic::menu())
    }),
    Case::ours("back_pressure/rejected/sf", BARE_SERVICE, || {
        let layer = BackPressureLayer::new(full(one().max_waiting(0)));
        Subject::service(layer.layer(service()), Traffic::menu().shed())
    }),
    // Its permit is taken in `poll_ready` and given back with the head; its rejection is an error.
    Case::peer("load_shed/tower/admitted/sf", BARE_SERVICE, || {
        let layers = ServiceBuilder::new().load_shed().concurrency_limit(100);
        Subject::service(layers.service(service()), Traffic::menu())
    }),
];

fn one() -> Limit {
    Limit::fixed(NonZeroUsize::MIN)
}

/// The same limit, with its only place taken for good.
fn full(limit: Limit) -> Limit {
    let mut service = LoadShedLayer::new(limit.clone()).layer(service());
    let taken = service.call(Request::new(Body::empty()));
    std::mem::forget(taken);
    assert_eq!(limit.handle().in_flight(), 1);
    limit
}
