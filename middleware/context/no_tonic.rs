use std::net::SocketAddr;

use http::Extensions;

#[inline]
pub(super) fn peer(_: &Extensions) -> Option<SocketAddr> {
    None
}

pub(super) fn put_peer(_: &mut Extensions, _: SocketAddr) {}
