//! The bytes of a connection, watched.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{accept::Open, conn::Conn, counts::Closed, handed::Side};
use crate::clock;

pin_project! {
    /// Tells the connection what comes, and whether the peer takes what goes.
    #[derive(Debug)]
    pub(super) struct Io<T> {
        #[pin]
        inner: T,
        conn: Arc<Conn>,
        // Also when they have been handed over to another protocol the connection is open.
        _open: Arc<Open>,
        blocked: bool,
        is_two: bool,
        // Bytes since others had their turn.
        written: usize,
    }
}

/// So much is written at once. A peer whose buffers have room for megabytes would keep the worker for milliseconds, and a
/// hundred of them for the time that others' calls take.
const TURN: usize = 256 * 1024;

/// Whether others are to be served first. The task comes back at once.
fn is_others_turn(written: &mut usize, context: &Context<'_>) -> bool {
    let is_over = *written >= TURN;
    if is_over {
        *written = 0;
        context.waker().wake_by_ref();
    }
    is_over
}

/// Counts what was written since the peer took nothing more, or others had their turn.
fn count(written: &mut usize, polled: &Poll<io::Result<usize>>) {
    match polled {
        Poll::Ready(Ok(bytes)) => *written = written.saturating_add(*bytes),
        Poll::Ready(Err(_)) => {}
        Poll::Pending => *written = 0,
    }
}

impl<T> Io<T> {
    pub(super) fn new(inner: T, conn: Arc<Conn>, open: Arc<Open>) -> Self {
        Self {
            inner,
            conn,
            _open: open,
            blocked: false,
            is_two: false,
            written: 0,
        }
    }
}

/// Tells of a change.
fn note<R>(conn: &Conn, blocked: &mut bool, polled: Poll<R>) -> Poll<R> {
    if polled.is_pending() != *blocked {
        *blocked = polled.is_pending();
        conn.wrote(*blocked, clock::now());
    }
    polled
}

/// The library tells the peer why it ends a connection of HTTP/2, in its GOAWAY (RFC 9113 6.8), and nobody else.
#[inline]
fn note_flood(conn: &Conn, written: &[u8]) {
    // As all of the reasons end.
    if written.last() == Some(&b's') {
        find_flood(conn, written);
    }
}

/// A body may end like that too: it must be the whole frame, and the connection has to end with an error.
#[cold]
fn find_flood(conn: &Conn, written: &[u8]) {
    for reason in [
        Closed::TooManyResets,
        Closed::TooManyInternalResets,
        Closed::TooManyDataFrames,
        Closed::TooManyContinuations,
    ] {
        let text = reason.label().as_bytes();
        let before = written.strip_suffix(text);
        if let Some([.., 0, 0, length, 7, 0, 0, 0, 0, 0, _, _, _, _, _, _, _, _]) = before
            && usize::from(*length) == text.len().saturating_add(8)
        {
            conn.suspect(reason);
        }
    }
}

impl<T: AsyncRead> AsyncRead for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let polled = this.inner.poll_read(context, buffer);
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            *this.is_two = this.conn.read(read);
        }
        this.conn.over.watch(Side::Read, polled, context)
    }
}

impl<T: AsyncWrite> AsyncWrite for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if is_others_turn(this.written, context) {
            return Poll::Pending;
        }
        if *this.is_two {
            note_flood(this.conn, bytes);
        }
        let polled = this.inner.poll_write(context, bytes);
        count(this.written, &polled);
        let polled = note(this.conn, this.blocked, polled);
        this.conn.over.watch(Side::Write, polled, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if is_others_turn(this.written, context) {
            return Poll::Pending;
        }
        if let (true, Some(last)) = (*this.is_two, bytes.last()) {
            note_flood(this.conn, last);
        }
        let polled = this.inner.poll_write_vectored(context, bytes);
        count(this.written, &polled);
        let polled = note(this.conn, this.blocked, polled);
        this.conn.over.watch(Side::Write, polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let polled = this.inner.poll_flush(context);
        let polled = note(this.conn, this.blocked, polled);
        this.conn.over.watch(Side::Write, polled, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let polled = this.inner.poll_shutdown(context);
        let polled = note(this.conn, this.blocked, polled);
        this.conn.over.watch(Side::Write, polled, context)
    }
}
