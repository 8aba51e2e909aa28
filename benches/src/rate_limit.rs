//! Quotas per address of the peer.
//!
//! A million callers are there before anything is measured; each finds its own. What was rejected once
//! stays rejected: the quota gives a call back after a day.

use std::{convert::Infallible, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use plimsoll::server::rate_limit::{Key, Quota, QuotaHeaders, RateLimitLayer};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_governor::{
    GovernorLayer,
    governor::{GovernorConfig, GovernorConfigBuilder},
    key_extractor::PeerIpKeyExtractor,
};

use crate::{
    bases::{BARE_ROUTER_PEERS, BARE_SERVICE_PEERS, FEW_PEERS, router, service},
    harness::{
        Case,
        traffic::{Subject, Traffic, peer},
    },
};

const MANY_PEERS: u32 = 1_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) const CASES: &[Case] = &[
    Case::ours("rate_limit/admitted", BARE_ROUTER_PEERS, || {
        routed(known(silent(100_000)), FEW_PEERS)
    }),
    Case::ours("rate_limit/admitted/sf", BARE_SERVICE_PEERS, || {
        let traffic = Traffic::menu().with_peers(FEW_PEERS);
        Subject::service(known(silent(100_000)).layer(service()), traffic)
    }),
    // Not held to a ceiling: under callgrind it would take minutes until a million callers are there.
    Case::peer("rate_limit/million_keys", BARE_ROUTER_PEERS, || {
        let layer = silent(100_000).max_keys(NonZeroUsize::new(1_200_000).expect("above 0"));
        call_once(&layer, MANY_PEERS);
        routed(layer, MANY_PEERS)
    }),
    Case::ours("rate_limit/headers", BARE_ROUTER_PEERS, || {
        let layer = silent(100_000).headers(QuotaHeaders::Draft10);
        routed(known(layer), FEW_PEERS)
    }),
    Case::ours("rate_limit/rejected", BARE_ROUTER_PEERS, || {
        let layer = silent(1);
        call_once(&layer, FEW_PEERS);
        let traffic = Traffic::menu().with_peers(FEW_PEERS).rejected();
        Subject::service(router().layer(layer).with_state(()), traffic)
    }),
    Case::ours("rate_limit/rejected/sf", BARE_SERVICE_PEERS, || {
        let layer = silent(1);
        call_once(&layer, FEW_PEERS);
        let traffic = Traffic::menu().with_peers(FEW_PEERS).rejected();
        Subject::service(layer.layer(service()), traffic)
    }),
    Case::peer(
        "rate_limit/tower_governor/admitted",
        BARE_ROUTER_PEERS,
        || {
            let traffic = Traffic::menu().with_peers(FEW_PEERS);
            let layer: GovernorLayer<_, _, Body> = GovernorLayer::new(governor(100_000));
            call_once(&layer, FEW_PEERS);
            Subject::service(router().layer(layer).with_state(()), traffic)
        },
    ),
    Case::peer(
        "rate_limit/tower_governor/million_keys",
        BARE_ROUTER_PEERS,
        || {
            let layer: GovernorLayer<_, _, Body> = GovernorLayer::new(governor(100_000));
            call_once(&layer, MANY_PEERS);
            let traffic = Traffic::menu().with_peers(MANY_PEERS);
            Subject::service(router().layer(layer).with_state(()), traffic)
        },
    ),
    Case::peer(
        "rate_limit/tower_governor/headers",
        BARE_ROUTER_PEERS,
        || {
            let traffic = Traffic::menu().with_peers(FEW_PEERS);
            let layer: GovernorLayer<_, _, Body> =
                GovernorLayer::new(governor_with_headers(100_000));
            call_once(&layer, FEW_PEERS);
            Subject::service(router().layer(layer).with_state(()), traffic)
        },
    ),
    Case::peer(
        "rate_limit/tower_governor/rejected",
        BARE_ROUTER_PEERS,
        || {
            let layer: GovernorLayer<_, _, Body> = GovernorLayer::new(governor(1));
            call_once(&layer, FEW_PEERS);
            let traffic = Traffic::menu().with_peers(FEW_PEERS).rejected();
            Subject::service(router().layer(layer).with_state(()), traffic)
        },
    ),
];

/// Per peer so many calls at once, one of them back each day; no headers on what is admitted.
fn silent(burst: u32) -> RateLimitLayer {
    let quota = Quota::per(DAY / 1_000, 1).burst(burst).expect("a quota");
    RateLimitLayer::new(Key::peer(), quota).headers(QuotaHeaders::None)
}

/// The callers have come before: what is measured is a look-up.
fn known(layer: RateLimitLayer) -> RateLimitLayer {
    call_once(&layer, FEW_PEERS);
    layer
}

fn routed(layer: RateLimitLayer, peers: u32) -> Subject {
    let traffic = Traffic::menu().with_peers(peers);
    Subject::service(router().layer(layer).with_state(()), traffic)
}

type Governor<M> = Arc<GovernorConfig<PeerIpKeyExtractor, M>>;

fn governor(burst: u32) -> Governor<NoOpMiddleware<governor::clock::QuantaInstant>> {
    let mut config = GovernorConfigBuilder::default();
    let config = config.period(DAY / 1_000).burst_size(burst).finish();
    Arc::new(config.expect("a configuration"))
}

fn governor_with_headers(burst: u32) -> Governor<StateInformationMiddleware> {
    let mut config = GovernorConfigBuilder::default();
    let mut config = config.period(DAY / 1_000).burst_size(burst).use_headers();
    Arc::new(config.finish().expect("a configuration"))
}

/// One call of each peer, so that the layer knows them all.
fn call_once<L, S>(layer: &L, peers: u32)
where
    L: Layer<Plain, Service = S>,
    S: Service<Request, Error: std::fmt::Debug>,
{
    let plain: Plain = service_fn(answer as fn(Request) -> std::future::Ready<_>);
    let mut service = layer.layer(plain);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let calls = async {
        for turn in 0..peers {
            let mut request = Request::new(Body::empty());
            let from: SocketAddr = peer(turn);
            request.extensions_mut().insert(ConnectInfo(from));
            let ready = service.ready().await.expect("it is ready");
            ready.call(request).await.expect("it answers");
        }
    };
    runtime.expect("a runtime can be built").block_on(calls);
}

type Plain =
    tower::util::ServiceFn<fn(Request) -> std::future::Ready<Result<Response, Infallible>>>;

fn answer(_: Request) -> std::future::Ready<Result<Response, Infallible>> {
    std::future::ready(Ok(Response::new(Body::empty())))
}
