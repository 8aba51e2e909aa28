use std::io;

use axum::serve::Listener;

use super::{ReadDelay, Timed};

impl ReadDelay {
    /// Times all connections of this listener, for `axum::serve`.
    ///
    /// For `into_make_service_with_connect_info::<SocketAddr>()` put axum's
    /// [`tap_io`](axum::serve::ListenerExt::tap_io) around it: `delay.listener(listener).tap_io(|_| {})`.
    pub fn listener<L: Listener>(&self, listener: L) -> TimedListener<L> {
        TimedListener {
            listener,
            delay: self.clone(),
        }
    }
}

/// A listener whose connections are timed.
#[derive(Debug)]
pub struct TimedListener<L> {
    listener: L,
    delay: ReadDelay,
}

impl<L: Listener> Listener for TimedListener<L> {
    type Io = Timed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (connection, address) = self.listener.accept().await;
        (self.delay.watch(connection), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
