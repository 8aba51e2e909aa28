//! Panics at each place where a call can panic: `GET /panic` and gRPC `Panic`.

use std::panic::panic_any;

use axum::http::Request;
use serde::Deserialize;

use crate::stream::SpecError;

/// The query of `/panic`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PanicSpec {
    /// The place. Default `await`.
    r#where: Where,
    /// The type of the payload. Default `str`.
    kind: Kind,
    /// The text of the payload, for `str` and `string`.
    msg: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Where {
    /// In `Service::call`, before there is a future.
    Call,
    /// In the future, after it was pending once.
    Await,
    /// In the `Drop` of a value that the handler holds.
    Drop,
    /// In a task of its own, which the call does not wait for.
    Spawn,
    /// As `drop`, but while the handler unwinds: this ends the process.
    Unwind,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Str,
    String,
    Int,
}

impl Default for PanicSpec {
    fn default() -> Self {
        Self {
            r#where: Where::Await,
            kind: Kind::Str,
            msg: "a panic on demand".to_owned(),
        }
    }
}

impl PanicSpec {
    /// Reads a query string.
    ///
    /// # Errors
    ///
    /// When it has an unknown name or value.
    pub(crate) fn parse(query: &str) -> Result<Self, SpecError> {
        Ok(serde_urlencoded::from_str(query)?)
    }

    /// Panics if the place is the call itself; to be asked before there is a future.
    pub(crate) fn in_call(&self) {
        if self.r#where == Where::Call {
            self.panic();
        }
    }

    /// Panics at the other places.
    pub(crate) async fn in_future(self) {
        match self.r#where {
            Where::Call => {}
            Where::Await => {
                tokio::task::yield_now().await;
                self.panic();
            }
            Where::Drop => drop(PanicsInDrop(self)),
            Where::Spawn => {
                plimsoll::task::spawn("panic_on_demand", async move { self.panic() });
            }
            Where::Unwind => {
                let _held = PanicsInDrop(self.clone());
                self.panic();
            }
        }
    }

    fn panic(&self) {
        match self.kind {
            // The payload has to live for ever. A server in production would not do this.
            Kind::Str => panic_any::<&'static str>(self.msg.clone().leak()),
            Kind::String => panic_any::<String>(self.msg.clone()),
            Kind::Int => panic_any::<i32>(42),
        }
    }
}

struct PanicsInDrop(PanicSpec);

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        self.0.panic();
    }
}

/// Stands between the layers and the router, so that `where=call` panics in the `Service::call` that the layers call:
/// a router calls its handlers in a future.
pub(crate) fn in_call<B>(request: Request<B>) -> Request<B> {
    if request.uri().path() == "/panic"
        && let Ok(spec) = PanicSpec::parse(request.uri().query().unwrap_or_default())
    {
        spec.in_call();
    }
    request
}
