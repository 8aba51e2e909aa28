use tonic::transport::server::Connected;

use super::Timed;

/// So that tonic's handlers know the peer of a timed connection as of any other.
impl<T: Connected> Connected for Timed<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.get_ref().connect_info()
    }
}
