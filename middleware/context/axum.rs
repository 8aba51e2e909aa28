use std::{any::Any, net::SocketAddr};

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath},
};
use http::Extensions;

pub(super) type Matched = MatchedPath;

#[inline]
pub(super) fn matched(extensions: &Extensions) -> Option<Matched> {
    extensions.get::<MatchedPath>().cloned()
}

#[inline]
pub(super) fn pattern(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

#[inline]
pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0)
}

/// A router that is served makes routes of its handlers once, as on `axum::serve`, not for each call.
pub(super) fn prepared<S: 'static>(mut service: S) -> S {
    let any: &mut dyn Any = &mut service;
    if let Some(router) = any.downcast_mut::<Router>() {
        *router = std::mem::take(router).with_state(());
    }
    service
}

/// Lets axum's extractors and ours know the peer.
pub(super) fn put_peer(extensions: &mut Extensions, peer: SocketAddr) {
    extensions.insert(ConnectInfo(peer));
}
