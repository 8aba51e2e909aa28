use std::net::SocketAddr;

use http::Extensions;

/// No router of ours to know matches by.
#[derive(Clone)]
pub(super) enum Matched {}

impl Matched {
    pub(super) fn as_str(&self) -> &str {
        match *self {}
    }
}

#[inline]
pub(super) fn matched(_: &Extensions) -> Option<Matched> {
    None
}

#[inline]
pub(super) fn pattern(_: &Extensions) -> Option<&str> {
    None
}

#[inline]
pub(super) fn peer(_: &Extensions) -> Option<SocketAddr> {
    None
}

pub(super) fn prepared<S>(service: S) -> S {
    service
}

pub(super) fn put_peer(extensions: &mut Extensions, peer: SocketAddr) {
    extensions.insert(super::PeerAddr(peer));
}
