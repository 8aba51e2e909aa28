//! The place of a rate limit that many replicas share: that of the one that they do not.

use super::{Inside, Outside};
use crate::server::{
    access_log::AccessLogLayer, back_pressure::BackPressureLayer, body_limit::BodyLimitLayer,
    catch_panic::CatchPanicLayer, load_shed::LoadShedLayer, metrics::MetricsLayer,
    rate_limit::RedisRateLimitLayer, request_id::RequestIdLayer, timeout::TimeoutLayer,
    trace_context::TraceContextLayer,
};

in_place!(
    RedisRateLimitLayer:
    inside of RequestIdLayer, TraceContextLayer, AccessLogLayer, MetricsLayer, TimeoutLayer;
    outside of BackPressureLayer, LoadShedLayer, BodyLimitLayer, CatchPanicLayer
);
