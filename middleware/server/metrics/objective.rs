use std::time::Duration;

use http::Method;
use opentelemetry::KeyValue;

use super::{
    instruments::Names,
    labels::{Labels, Wire, is_ours},
};

/// An objective for some calls: how soon they should end without the service's fault, such as "`POST /orders` under
/// 300 ms". How many of them should, the alert rule says.
///
/// `plimsoll.slo.events` counts the calls it is about, `plimsoll.slo.good_events` those that met it. A call is good if
/// it ended in time and the service is not to blame for its end: a 4xx, a caller that went away and a quota are the
/// caller's, an overload is the service's.
#[derive(Clone, Debug)]
pub struct Objective {
    name: &'static str,
    under: Duration,
    method: Option<Method>,
    place: Option<String>,
}

impl Objective {
    /// An objective for all calls; the name becomes the attribute `slo`.
    pub fn new(name: &'static str, under: Duration) -> Self {
        Self {
            name,
            under,
            method: None,
            place: None,
        }
    }

    /// Only calls with this method of HTTP. Default: any.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only calls of this route, as the router writes it (`/orders/{id}`). Default: any.
    #[must_use]
    pub fn route(mut self, pattern: impl Into<String>) -> Self {
        self.place = Some(pattern.into());
        self
    }

    /// Only calls of this method of gRPC (`package.Service/Method`). It must be one of
    /// [`rpc_methods`](super::MetricsLayer::rpc_methods). Default: any.
    #[must_use]
    pub fn rpc_method(self, name: impl Into<String>) -> Self {
        self.route(name)
    }

    /// Whether it is about these calls.
    pub(super) fn covers(&self, labels: &Labels, names: &Names) -> bool {
        let method = self.method.as_ref().map(Method::as_str);
        let place = self.place.as_deref();
        !labels.is_overflow()
            && method.is_none_or(|method| method == names.method)
            && place.is_none_or(|place| names.place.as_deref() == Some(place))
    }

    pub(super) fn attributes(&self) -> [KeyValue; 1] {
        [KeyValue::new("slo", self.name)]
    }

    /// The longest that a call with these labels may take to be good; `None` if it cannot be.
    pub(super) fn limit(&self, labels: &Labels) -> Option<f64> {
        (!is_ours(labels.outcome)).then_some(self.under.as_secs_f64())
    }
}

impl Wire {
    /// What tells calls of gRPC apart in the place of a route.
    pub(super) fn place_in<'a>(self, path: &'a str, route: Option<&'a str>) -> Option<&'a str> {
        if self.is_grpc() {
            path.strip_prefix('/')
        } else {
            route
        }
    }
}
