//! Panics answered by a response. Nothing is printed by the panic hook, and no subscriber takes the event
//! that either layer writes.

use plimsoll::server::catch_panic::CatchPanicLayer;
use tower_http::catch_panic::CatchPanicLayer as PeerLayer;
use tower_layer::Layer;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::ours("catch_panic/admitted", BARE_ROUTER, || {
        let router = router().layer(CatchPanicLayer::new());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::ours("catch_panic/admitted/sf", BARE_SERVICE, || {
        Subject::service(CatchPanicLayer::new().layer(service()), Traffic::menu())
    }),
    Case::ours("catch_panic/panicking", BARE_ROUTER, || {
        silence_panics();
        let router = router().layer(CatchPanicLayer::new());
        Subject::service(router.with_state(()), Traffic::menu().panicking())
    }),
    Case::peer("catch_panic/tower-http/admitted", BARE_ROUTER, || {
        let router = router().layer(PeerLayer::new());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("catch_panic/tower-http/admitted/sf", BARE_SERVICE, || {
        Subject::service(PeerLayer::new().layer(service()), Traffic::menu())
    }),
    Case::peer("catch_panic/tower-http/panicking", BARE_ROUTER, || {
        silence_panics();
        let router = router().layer(PeerLayer::new());
        Subject::service(router.with_state(()), Traffic::menu().panicking())
    }),
];

fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}
