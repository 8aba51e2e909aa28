//! What stands before the backend: ours, its peers, and nothing.

use std::net::Ipv4Addr;

use axum::{
    Router,
    error_handling::HandleErrorLayer,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use little_loadshedder::{LoadShedLayer as LittleLoadshedder, LoadShedResponse};
use plimsoll::{
    caller::{Cidr, TrustedProxies},
    limit::{Limit, ReadDelay},
    server::{back_pressure::BackPressureLayer, load_shed::LoadShedLayer},
};
use tonic::Status;
use tower::{
    BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer,
    load_shed::LoadShedLayer as TowerLoadShed,
};
use tower_resilience_adaptive::{AdaptiveLimiterLayer, Aimd, Vegas};

use crate::case::{Case, Protocol, Variant};

/// little-loadshedder's weight of a new latency, that of its own example, and the latency that it is to hold, in mean
/// services: it has no default for either.
const LITTLE_EWMA: f64 = 0.01;
const LITTLE_TARGET: u32 = 5;

/// Puts the case's variant around a router. Ours also refuse by this delay, of connections that it is told of.
pub(super) fn wrap(router: Router, case: &Case, delay: &ReadDelay) -> Result<Router, String> {
    let protocol = case.protocol;
    let limit = case.backend.tuned_limit();
    // tower's limits wait; `LoadShed` in front of them makes them reject.
    let rejects = || {
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(move |_: BoxError| async move {
                rejection(protocol)
            }))
            .layer(TowerLoadShed::new())
    };
    Ok(match case.variant {
        Variant::NoLimit | Variant::Bare503 => router,
        Variant::TowerTuned => {
            router.layer(rejects().layer(GlobalConcurrencyLimitLayer::new(limit)))
        }
        Variant::TowerHigh => {
            router.layer(rejects().layer(GlobalConcurrencyLimitLayer::new(limit * 4)))
        }
        Variant::TowerLow => {
            router.layer(rejects().layer(GlobalConcurrencyLimitLayer::new((limit / 4).max(1))))
        }
        Variant::LittleLoadshedder => {
            let target = case.backend.mean_service() * LITTLE_TARGET;
            let answer = move |answer: LoadShedResponse<Response>| match answer {
                LoadShedResponse::Inner(response) => response,
                LoadShedResponse::Overload => rejection(protocol),
            };
            let layers = ServiceBuilder::new()
                .map_response(answer)
                .layer(LittleLoadshedder::new(LITTLE_EWMA, target));
            router.layer(layers)
        }
        Variant::ResilienceAimd => {
            let aimd = Aimd::builder().build().map_err(|error| error.to_string())?;
            router.layer(rejects().layer(AdaptiveLimiterLayer::new(aimd)))
        }
        Variant::ResilienceVegas => {
            let vegas = Vegas::builder()
                .build()
                .map_err(|error| error.to_string())?;
            router.layer(rejects().layer(AdaptiveLimiterLayer::new(vegas)))
        }
        Variant::LoadShed => router.layer(
            LoadShedLayer::new(Limit::adaptive())
                .gate(delay.clone())
                .priority_from(TrustedProxies::new(loopback()?)),
        ),
        Variant::BackPressure => router.layer(
            BackPressureLayer::new(Limit::adaptive())
                .gate(delay.clone())
                .priority_from(TrustedProxies::new(loopback()?)),
        ),
    })
}

/// Whose word is taken for the priority of a call: the generator's.
fn loopback() -> Result<Option<Cidr>, String> {
    let loopback = Cidr::new(Ipv4Addr::LOCALHOST.into(), 32);
    loopback.map(Some).map_err(|error| error.to_string())
}

/// The answer of those who leave it to their users.
pub(super) fn rejection(protocol: Protocol) -> Response {
    match protocol {
        Protocol::Http => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Protocol::Grpc => Status::unavailable("overloaded").into_http(),
    }
}
