//! Connections whose requests are timed: from the wake-up of their task to the read that takes them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ReadDelay;
use crate::clock;

pin_project! {
    /// A connection that tells its [`ReadDelay`] how long requests lay unread. One allocation a connection, none a call.
    #[derive(Debug)]
    pub struct Timed<T> {
        #[pin]
        inner: T,
        delay: ReadDelay,
        stamp: Arc<Stamp>,
        waker: Waker,
        // When a request was read that was not answered yet, and the task has not slept since.
        read: Option<Instant>,
    }
}

/// When the connection was woken, and whose task it is.
#[derive(Debug)]
struct Stamp(Mutex<(Option<Instant>, Option<Waker>)>);

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = {
            let mut stamp = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // The first counts: from then on there was something to read.
            stamp.0.get_or_insert_with(clock::now);
            stamp.1.clone()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<T> Timed<T> {
    /// A connection that came just now may have brought its request along.
    pub(super) fn new(inner: T, delay: ReadDelay, came: Option<Instant>) -> Self {
        let stamp = Arc::new(Stamp(Mutex::new((came, None))));
        Self {
            inner,
            delay,
            waker: Waker::from(Arc::clone(&stamp)),
            stamp,
            read: None,
        }
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead> AsyncRead for Timed<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let woken = {
            let mut stamp = this.stamp.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (woken, task) = &mut *stamp;
            match task {
                Some(task) => task.clone_from(context.waker()),
                None => *task = Some(context.waker().clone()),
            }
            woken.take()
        };
        let before = buffer.filled().len();
        let polled = this
            .inner
            .poll_read(&mut Context::from_waker(this.waker), buffer);
        if polled.is_pending() {
            *this.read = None;
        } else if buffer.filled().len() > before {
            let now = clock::now();
            if let Some(woken) = woken {
                this.delay.read(now.saturating_duration_since(woken), now);
            }
            this.read.get_or_insert(now);
        }
        polled
    }
}

impl<T> Timed<T> {
    /// An answer to what was read in the same poll: so long the handler kept the worker.
    fn answered(read: &mut Option<Instant>, delay: &ReadDelay) {
        if let Some(read) = read.take() {
            delay.polled(clock::now().saturating_duration_since(read));
        }
    }
}

impl<T: AsyncWrite> AsyncWrite for Timed<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        Self::answered(this.read, this.delay);
        this.inner.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        Self::answered(this.read, this.delay);
        this.inner.poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(context)
    }
}
