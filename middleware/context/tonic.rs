use std::net::SocketAddr;

use http::Extensions;
use tonic::transport::server::TcpConnectInfo;

#[inline]
pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    extensions
        .get::<TcpConnectInfo>()
        .and_then(TcpConnectInfo::remote_addr)
}
