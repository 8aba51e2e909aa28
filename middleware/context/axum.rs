use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath};
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

/// Lets axum's extractors and ours know the peer.
pub(super) fn put_peer(extensions: &mut Extensions, peer: SocketAddr) {
    extensions.insert(ConnectInfo(peer));
}
