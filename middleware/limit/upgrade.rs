use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, Request, StatusCode, header::UPGRADE};

use super::permit::Permit;
use crate::context::Handover;

/// The place that an upgraded connection, such as a WebSocket, has among the [streams](super::Limit::max_streams) of a
/// limit: whoever keeps it says that the connection is still in use.
///
/// It is an extension of each request that asks for an upgrade. On [our serve loop](crate::serve) the place is held until
/// the connection is closed without it, but for WebSockets over HTTP/2. Other servers do not tell: there the handler keeps it
/// beside the connection, or the place is free again as soon as the 101 is sent.
///
/// ```
/// use axum::{Extension, response::Response};
/// use plimsoll::limit::StreamPlace;
///
/// async fn feed(Extension(place): Extension<StreamPlace>, request: axum::extract::Request) -> Response {
///     let upgrade = hyper::upgrade::on(request);
///     plimsoll::task::spawn("feed", async move {
///         let _place = place;
///         let connection = upgrade.await;
///         // .. until it is over
/// #       drop(connection);
///     });
///     // 101, and what else the protocol asks for
/// #   Response::default()
/// }
/// # fn is_handler<H: axum::handler::Handler<T, ()>, T>(_: H) {}
/// # is_handler(feed);
/// ```
///
/// It holds nothing before the answer is there, and nothing if that is no upgrade.
#[derive(Clone)]
pub struct StreamPlace(Arc<Kept>);

struct Kept {
    /// One of each limit that the call was let in by.
    permits: Mutex<Vec<Permit>>,
    /// Whether it is a `CONNECT`, whose answer is no 101: a WebSocket over HTTP/2 (RFC 8441).
    connects: bool,
    connection: Option<Handover>,
}

impl StreamPlace {
    /// That of this request, if it asks for an upgrade. Limits one inside the other share it.
    #[inline]
    pub(super) fn of<B>(request: &mut Request<B>) -> Option<Self> {
        let connects = request.method() == Method::CONNECT;
        if !connects && !request.headers().contains_key(UPGRADE) {
            return None;
        }
        Some(Self::made(request, connects))
    }

    #[cold]
    fn made<B>(request: &mut Request<B>, connects: bool) -> Self {
        let extensions = request.extensions_mut();
        if let Some(outer) = extensions.get::<Self>() {
            return outer.clone();
        }
        let place = Self(Arc::new(Kept {
            permits: Mutex::default(),
            connects,
            connection: extensions.get::<Handover>().cloned(),
        }));
        extensions.insert(place.clone());
        place
    }

    /// Whether this answer is the upgrade.
    pub(super) fn begins(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.0.connects && status.is_success())
    }

    /// Holds on to this.
    pub(super) fn hold(&self, permit: Permit) {
        self.permits().push(permit);
        if let Some(connection) = &self.0.connection {
            connection.keep(self.clone());
        }
    }

    fn permits(&self) -> MutexGuard<'_, Vec<Permit>> {
        let permits = self.0.permits.lock();
        permits.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StreamPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.permits().len();
        f.debug_struct("StreamPlace").field("held", &held).finish()
    }
}
