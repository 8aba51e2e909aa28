//! What readiness depends on: nothing, unless the settings name something.

use std::time::Duration;

use plimsoll::ops::health::{Check, Health, InvalidUrl};
use tonic::server::NamedService as _;

use crate::grpc;
use crate::settings::Settings;

/// How long a result counts.
const KEEP: Duration = Duration::from_secs(1);

/// The upstream of `TB_UPSTREAM` must answer `/ok`; without the Redis of `TB_REDIS` the limits do as their policy says.
pub(crate) fn of(settings: &Settings) -> Result<Health, InvalidUrl> {
    let mut health = Health::new().grpc_service(grpc::Service::NAME);
    if let Some(upstream) = &settings.upstream {
        let check = Check::http("upstream", &format!("{upstream}ok"))?;
        health = health.check(kept(check, settings));
    }
    if let Some(redis) = &settings.limits.redis {
        let check = Check::redis("redis", redis)?;
        health = health.check(kept(check, settings).not_critical());
    }
    Ok(health)
}

fn kept(check: Check, settings: &Settings) -> Check {
    let check = check.keep(KEEP);
    match settings.check_timeout {
        Some(limit) => check.timeout(limit),
        None => check,
    }
}
