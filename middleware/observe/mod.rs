//! The polling of calls, written once: a future and a body that tell an observer how the call really ended.
//!
//! A call is in flight until the last byte of its response has been handed on, its trailers are out, its body failed
//! or was dropped. [`ResponseFuture`] and [`ResponseBody`] see each of these and tell an [`Observer`] exactly once.
//!
//! They also keep the end honest. A gRPC body that fails after its head, or that ends without a status, gets trailers
//! that say so (13, or the status in the error); a body of HTTP is cut. The caller never sees a clean end that was none.
//!
//! A layer of your own needs an observer, a scope and one line:
//!
//! ```
//! # use std::task::{Context, Poll};
//! # use http::{Request, Response};
//! # use plimsoll::{context::Scope, observe::{End, Observer, ResponseFuture}};
//! # use tower_service::Service;
//! struct Count;
//!
//! impl Observer for Count {
//!     fn on_end(self, end: End<'_>) {
//!         println!("a call ended: {end:?}");
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Counted<S>(S);
//!
//! impl<S, A, B> Service<Request<A>> for Counted<S>
//! where
//!     S: Service<Request<A>, Response = Response<B>>,
//! #   S::Error: std::fmt::Display + 'static,
//! #   B: http_body::Body<Data = bytes::Bytes>,
//! #   B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
//! {
//!     type Response = Response<plimsoll::observe::ResponseBody<B, Count>>;
//!     type Error = S::Error;
//!     type Future = ResponseFuture<S::Future, Count>;
//!
//!     fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
//!         self.0.poll_ready(context)
//!     }
//!
//!     fn call(&mut self, mut request: Request<A>) -> Self::Future {
//!         let scope = Scope::open(&mut request);
//!         ResponseFuture::call(&mut self.0, request, Count, scope)
//!     }
//! }
//! ```

mod body;
mod content;
mod end;
mod future;
mod request_body;
mod verdict;

pub use body::ResponseBody;
pub(crate) use body::{BodyPanicked, BodyRefused};
pub(crate) use content::Content;
pub use end::{BoxError, End, Fault, Observer};
pub use future::ResponseFuture;
pub(crate) use request_body::{Around, Intake, observe_request, wrap_request};
pub(crate) use verdict::{Verdict, Witness};
