use std::net::SocketAddr;

use http::Extensions;
use tonic::transport::server::TcpConnectInfo;

#[inline]
pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    extensions
        .get::<TcpConnectInfo>()
        .and_then(TcpConnectInfo::remote_addr)
}

/// Lets tonic's `Request::remote_addr` know the peer.
pub(super) fn put_peer(extensions: &mut Extensions, peer: SocketAddr) {
    extensions.insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(peer),
    });
}
