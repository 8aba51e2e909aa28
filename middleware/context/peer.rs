use std::{fmt, net::SocketAddr};

use http::Extensions;

#[cfg(feature = "axum")]
#[path = "axum.rs"]
mod axum_facts;
#[cfg(not(feature = "axum"))]
#[path = "no_axum.rs"]
mod axum_facts;
#[cfg(feature = "tonic")]
#[path = "tonic.rs"]
mod tonic_facts;
#[cfg(not(feature = "tonic"))]
#[path = "no_tonic.rs"]
mod tonic_facts;

/// The address at the other end of the connection: of a proxy, if one stands between.
///
/// Written by axum (`into_make_service_with_connect_info::<SocketAddr>()`, feature `axum`), by tonic's server
/// (feature `tonic`), or into the request's extensions by any other server. Read by `access_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

impl PeerAddr {
    /// The address in these extensions of a request.
    #[inline]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let own = extensions.get::<Self>().copied();
        own.or_else(|| {
            axum_facts::peer(extensions)
                .or_else(|| tonic_facts::peer(extensions))
                .map(Self)
        })
    }
}

impl PeerAddr {
    /// What is known of each request of a connection: its peer, where layers and handlers look for it. To be cloned for
    /// each, with the room: what a router adds makes the map of none of them grow.
    pub(crate) fn known(self) -> Extensions {
        let mut known = Extensions::new();
        known.insert(Room::<0>);
        known.insert(Room::<1>);
        known.insert(Room::<2>);
        known.insert(Room::<3>);
        known.clear();
        axum_facts::put_peer(&mut known, self.0);
        tonic_facts::put_peer(&mut known, self.0);
        known
    }
}

/// A service that is to be served, ready for it.
pub(crate) fn prepared<S: 'static>(service: S) -> S {
    axum_facts::prepared(service)
}

/// Holds a place in extensions.
#[derive(Clone)]
struct Room<const PLACE: usize>;

/// The pattern that matched the request's path, such as `/orders/{id}`; never the path itself.
///
/// Written by axum's router (feature `axum`). Read by `access_log`.
#[derive(Clone)]
pub struct Route(axum_facts::Matched);

impl Route {
    /// The route in these extensions of a request; `None` where nothing matched.
    #[inline]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        axum_facts::matched(extensions).map(Self)
    }

    /// The pattern in these extensions, without keeping it.
    #[inline]
    pub(crate) fn pattern(extensions: &Extensions) -> Option<&str> {
        axum_facts::pattern(extensions)
    }

    /// The pattern.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.as_str()).finish()
    }
}
