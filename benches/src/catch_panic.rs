//! Panics answered by a response. The panic hook is silent: what it prints is not the layer's cost.

use tower_http::catch_panic::CatchPanicLayer;
use tower_layer::Layer;

use crate::{
    bases::{BARE_ROUTER, BARE_SERVICE, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic},
    },
};

pub(crate) const CASES: &[Case] = &[
    Case::peer("catch_panic/tower-http/admitted", BARE_ROUTER, || {
        let router = router().layer(CatchPanicLayer::new());
        Subject::service(router.with_state(()), Traffic::menu())
    }),
    Case::peer("catch_panic/tower-http/admitted/sf", BARE_SERVICE, || {
        Subject::service(CatchPanicLayer::new().layer(service()), Traffic::menu())
    }),
    Case::peer("catch_panic/tower-http/panicking", BARE_ROUTER, || {
        silence_panics();
        let router = router().layer(CatchPanicLayer::new());
        Subject::service(router.with_state(()), Traffic::menu().panicking())
    }),
];

fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}
