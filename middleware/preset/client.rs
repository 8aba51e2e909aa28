//! The layers of the side that asks.

use std::fmt;

use tower_layer::Layer;

use crate::{
    client::{
        deadline::{DeadlineLayer, WithinDeadline},
        propagate::{Propagate, PropagateLayer},
        trace_context::{TraceContextLayer, WithSpan},
    },
    telemetry::Telemetry,
};

/// What stands around a client: what is too late is not sent, each call has a span, and the id, the trace, the deadline
/// and the priority of the call that makes it go along. Spans are those of the global provider.
///
/// ```
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::ServiceBuilder;
///
/// # fn build() -> impl Sized {
/// let client = Client::builder(TokioExecutor::new()).build_http::<String>();
/// ServiceBuilder::new().layer(plimsoll::preset::client()).service(client)
/// # }
/// ```
pub fn client() -> Client {
    Client {
        deadline: DeadlineLayer::new(),
        trace_context: TraceContextLayer::global(),
        propagate: PropagateLayer::new(),
    }
}

/// The layers around a client, in their order: a layer of tower's, for hyper's client as for tonic's `Channel`. Clones share
/// their counts.
#[derive(Clone)]
pub struct Client {
    deadline: DeadlineLayer,
    trace_context: TraceContextLayer,
    propagate: PropagateLayer,
}

/// Service of [`Client`], outermost first.
pub type Sent<S> = WithinDeadline<WithSpan<Propagate<S>>>;

impl Client {
    /// Makes spans with these exporters.
    #[must_use]
    pub fn telemetry(mut self, telemetry: &Telemetry) -> Self {
        self.trace_context = self.trace_context.tracer(telemetry.tracer().clone());
        self
    }

    /// Whether calls have spans. Default: yes.
    #[must_use]
    pub fn trace_context(mut self, on: bool) -> Self {
        self.trace_context = self.trace_context.enabled(on);
        self
    }

    /// Whether calls that are too late are kept back. Default: yes.
    #[must_use]
    pub fn deadline(mut self, on: bool) -> Self {
        self.deadline = self.deadline.enabled(on);
        self
    }

    /// Whether the id, the deadline and the priority go along: not to services of strangers. Default: yes.
    #[must_use]
    pub fn propagate(mut self, on: bool) -> Self {
        self.propagate = self.propagate.enabled(on);
        self
    }

    /// Who is called, for spans around a tonic `Channel`, whose requests do not say so.
    #[must_use]
    pub fn server(mut self, address: &str, port: u16) -> Self {
        self.trace_context = self.trace_context.server(address, port);
        self
    }

    /// How many calls were too late, for `MetricsLayer::watch`.
    pub fn deadlines(&self) -> DeadlineLayer {
        self.deadline.clone()
    }
}

impl<S> Layer<S> for Client {
    type Service = Sent<S>;

    fn layer(&self, client: S) -> Sent<S> {
        // Next to the client, so that what is passed on is the span's, and once for each attempt.
        let client = self.propagate.layer(client);
        // Inside of the deadline: what is not sent has no span.
        let client = self.trace_context.layer(client);
        self.deadline.layer(client)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("deadline", &self.deadline)
            .field("trace_context", &self.trace_context)
            .field("propagate", &self.propagate)
            .finish()
    }
}
