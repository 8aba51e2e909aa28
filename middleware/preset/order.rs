//! Layers that are put together by hand, in an order that the compiler checks.

use std::{fmt, marker::PhantomData};

use tower_layer::{Identity, Layer, Stack};

use crate::server::{
    access_log::AccessLogLayer, back_pressure::BackPressureLayer, body_limit::BodyLimitLayer,
    catch_panic::CatchPanicLayer, load_shed::LoadShedLayer, metrics::MetricsLayer,
    rate_limit::RateLimitLayer, request_id::RequestIdLayer, timeout::TimeoutLayer,
    trace_context::TraceContextLayer,
};

/// Begins a stack that is put together by hand, outermost layer first. A layer that stands where it must not is an error
/// of the compiler's; any may be left out.
///
/// ```
/// # use axum::{Router, routing::get};
/// use plimsoll::{
///     preset,
///     server::{access_log::AccessLogLayer, catch_panic::CatchPanicLayer, request_id::RequestIdLayer},
/// };
/// use tower_http::compression::CompressionLayer;
///
/// let layers = preset::by_hand()
///     .layer(RequestIdLayer::new())
///     .layer(AccessLogLayer::new())
///     .other(CompressionLayer::new()) // any layer, anywhere
///     .layer(CatchPanicLayer::new());
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(layers);
/// ```
///
/// ```compile_fail,E0277
/// # use plimsoll::{preset, server::{catch_panic::CatchPanicLayer, request_id::RequestIdLayer}};
/// preset::by_hand()
///     .layer(CatchPanicLayer::new())
///     .layer(RequestIdLayer::new()); // `RequestIdLayer` does not stand inside of `CatchPanicLayer`
/// ```
///
/// The order, outermost first: `request_id`, `trace_context`, `access_log`, `metrics`, `timeout`, `rate_limit`,
/// `back_pressure` or `load_shed`, `body_limit`, `catch_panic`. What another one would do:
///
/// | outside | inside | what goes wrong |
/// |---|---|---|
/// | `access_log` | `request_id` | the line lacks the id |
/// | `rate_limit` | `request_id` | a rejection lacks the id |
/// | `access_log` | `trace_context` | the line bears the caller's span, not the call's |
/// | `timeout` | `access_log` | a call that timed out is `client_gone` on its line |
/// | `rate_limit` | `access_log` | who is over the quota has no line |
/// | `timeout` | `metrics` | a call that timed out is counted as one whose caller hung up |
/// | `back_pressure` | `metrics` | an overload looks like idleness |
/// | `back_pressure` | `timeout` | waiting takes no time, and nobody knows who waits in vain |
/// | `back_pressure` | `rate_limit` | who is over the quota takes places of those who are not |
/// | `body_limit` | `back_pressure` | what is over the cap has counted as work for the limit |
/// | `catch_panic` | `access_log` | the line tells of a panic, not of the answer that was given |
/// | `back_pressure` | `back_pressure` | a call takes two places, and the first waits for the second: with one limit, for ever |
pub fn by_hand() -> ByHand<Outside, Identity> {
    ByHand {
        layers: Identity::new(),
        innermost: PhantomData,
    }
}

/// Layers in an order that holds. `L` is the innermost that has a place of its own.
pub struct ByHand<L, Layers> {
    layers: Layers,
    innermost: PhantomData<fn() -> L>,
}

impl<L, Layers> ByHand<L, Layers> {
    /// Adds a layer of plimsoll's inside of those that are there.
    #[must_use]
    pub fn layer<N>(self, next: N) -> ByHand<N, Stack<N, Layers>>
    where
        N: Inside<L>,
    {
        ByHand {
            layers: Stack::new(next, self.layers),
            innermost: PhantomData,
        }
    }

    /// Adds any other layer inside of those that are there.
    #[must_use]
    pub fn other<N>(self, next: N) -> ByHand<L, Stack<N, Layers>> {
        ByHand {
            layers: Stack::new(next, self.layers),
            innermost: PhantomData,
        }
    }
}

impl<L, Layers: Clone> Clone for ByHand<L, Layers> {
    fn clone(&self) -> Self {
        Self {
            layers: self.layers.clone(),
            innermost: PhantomData,
        }
    }
}

impl<S, L, Layers: Layer<S>> Layer<S> for ByHand<L, Layers> {
    type Service = Layers::Service;

    fn layer(&self, service: S) -> Layers::Service {
        self.layers.layer(service)
    }
}

impl<L, Layers: fmt::Debug> fmt::Debug for ByHand<L, Layers> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ByHand").field(&self.layers).finish()
    }
}

/// Where no layer is yet.
#[derive(Clone, Copy, Debug)]
pub struct Outside;

/// A layer that may stand inside of another. A layer of your own that has its place among them says so too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` must not stand inside of `{Outer}`",
    label = "add it further out, or leave the second of its kind away",
    note = "outermost first: request_id, trace_context, access_log, metrics, timeout, rate_limit, back_pressure or load_shed, body_limit, catch_panic",
    note = "`preset::by_hand` says what goes wrong in other orders; a layer that has no place among them goes in with `other`"
)]
pub trait Inside<Outer> {}

/// Each of these may stand inside of all before it.
macro_rules! in_order {
    ($outer:ty $(, $inner:ty)*) => {
        impl Inside<Outside> for $outer {}
        $(impl Inside<$outer> for $inner {})*
        in_order!($($inner),*);
    };
    () => {};
}

in_order!(
    RequestIdLayer,
    TraceContextLayer,
    AccessLogLayer,
    MetricsLayer,
    TimeoutLayer,
    RateLimitLayer,
    BackPressureLayer,
    BodyLimitLayer,
    CatchPanicLayer
);

/// One that has the same place as another.
macro_rules! in_place {
    ($layer:ty: inside of $($outer:ty),*; outside of $($inner:ty),*) => {
        impl Inside<Outside> for $layer {}
        $(impl Inside<$outer> for $layer {})*
        $(impl Inside<$layer> for $inner {})*
    };
}
in_place!(
    LoadShedLayer:
    inside of RequestIdLayer, TraceContextLayer, AccessLogLayer, MetricsLayer, TimeoutLayer, RateLimitLayer;
    outside of BodyLimitLayer, CatchPanicLayer
);

// Below the macro that it uses.
#[cfg(feature = "rate-limit-redis")]
mod redis;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the first may stand right inside of the second.
    macro_rules! allowed {
        ($inner:ty, $outer:ty) => {{
            struct Probe<T>(PhantomData<T>);
            #[allow(dead_code, reason = "one of the two counts")]
            trait Otherwise {
                const ALLOWED: bool = false;
            }
            impl<T> Otherwise for Probe<T> {}
            #[allow(dead_code, reason = "one of the two counts")]
            impl<T: Inside<$outer>> Probe<T> {
                const ALLOWED: bool = true;
            }
            let _unread: Option<Probe<$inner>> = None;
            <Probe<$inner>>::ALLOWED
        }};
    }

    #[test]
    fn orders_that_are_known_to_be_bad_are_refused() {
        for (known, refused) in [
            (
                "request_id in access_log",
                !allowed!(RequestIdLayer, AccessLogLayer),
            ),
            (
                "request_id in rate_limit",
                !allowed!(RequestIdLayer, RateLimitLayer),
            ),
            (
                "trace_context in access_log",
                !allowed!(TraceContextLayer, AccessLogLayer),
            ),
            (
                "access_log in timeout",
                !allowed!(AccessLogLayer, TimeoutLayer),
            ),
            (
                "access_log in rate_limit",
                !allowed!(AccessLogLayer, RateLimitLayer),
            ),
            ("metrics in timeout", !allowed!(MetricsLayer, TimeoutLayer)),
            (
                "metrics in back_pressure",
                !allowed!(MetricsLayer, BackPressureLayer),
            ),
            (
                "timeout in back_pressure",
                !allowed!(TimeoutLayer, BackPressureLayer),
            ),
            (
                "rate_limit in back_pressure",
                !allowed!(RateLimitLayer, BackPressureLayer),
            ),
            (
                "back_pressure in body_limit",
                !allowed!(BackPressureLayer, BodyLimitLayer),
            ),
            (
                "access_log in catch_panic",
                !allowed!(AccessLogLayer, CatchPanicLayer),
            ),
            (
                "back_pressure twice",
                !allowed!(BackPressureLayer, BackPressureLayer),
            ),
            (
                "load_shed in back_pressure",
                !allowed!(LoadShedLayer, BackPressureLayer),
            ),
            (
                "back_pressure in load_shed",
                !allowed!(BackPressureLayer, LoadShedLayer),
            ),
        ] {
            assert!(refused, "{known}");
        }
    }

    #[test]
    fn the_guide_tells_the_same_of_wrong_orders() {
        let table = |text: &'static str, before: &str| -> Vec<&'static str> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(before));
            let table = lines.skip_while(|line| !line.starts_with("| outside |"));
            table.take_while(|line| line.starts_with('|')).collect()
        };
        let here = table(include_str!("order.rs"), "/// ");
        assert!(here.len() > 10, "{here:?}");
        assert_eq!(here, table(include_str!("../../docs/preset.md"), ""));
    }

    #[test]
    fn the_right_order_holds_whatever_is_left_out() {
        for (known, allowed) in [
            ("outermost", allowed!(CatchPanicLayer, Outside)),
            ("next", allowed!(TraceContextLayer, RequestIdLayer)),
            ("first and last", allowed!(CatchPanicLayer, RequestIdLayer)),
            ("shed", allowed!(LoadShedLayer, RateLimitLayer)),
            ("in shed", allowed!(BodyLimitLayer, LoadShedLayer)),
        ] {
            assert!(allowed, "{known}");
        }
    }
}
