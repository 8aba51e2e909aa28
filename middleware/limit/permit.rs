use std::{fmt, mem, sync::Arc};

use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body;

use super::{
    controller::Sample, shared::Shared, state::Seat, upgrade::StreamPlace, window::Seconds,
};
use crate::{
    context::Scope,
    observe::{End, Observer},
    outcome::Outcome,
    protocol::{GrpcCode, Protocol},
    rejection::Rejection,
};

/// What a layer holds for a call: a permit from its admission to the last byte of the response, or nothing if it was
/// rejected. However the call ends, also by a panic or a drop, the permit comes back.
#[derive(Debug, Default)]
pub struct Admission {
    permit: Option<Permit>,
    /// Of a call that asks for an upgrade.
    upgrade: Option<StreamPlace>,
}

impl Admission {
    pub(super) fn of(permit: Permit) -> Self {
        Self {
            permit: Some(permit),
            upgrade: None,
        }
    }

    /// The same, of this request, which is about to be passed on.
    #[inline]
    pub(crate) fn to<B>(mut self, request: &mut Request<B>, scope: &mut Scope) -> Self {
        scope.own(request);
        if let Some(permit) = &mut self.permit {
            permit.protocol = scope.protocol(request);
        }
        self.upgrade = StreamPlace::of(request);
        self
    }
}

impl Observer for Admission {
    #[inline]
    fn on_head<B: Body>(&mut self, response: &mut Response<B>) {
        let Some(permit) = &mut self.permit else {
            return;
        };
        let upgrade = self.upgrade.as_ref();
        let upgrade = upgrade.filter(|upgrade| upgrade.begins(response.status()));
        permit.head(response, upgrade.is_some());
        if let Some(upgrade) = upgrade
            && let Some(permit) = self.permit.take()
        {
            upgrade.hold(permit);
        }
    }

    #[inline]
    fn on_end(self, end: End<'_>) {
        if let Some(mut permit) = self.permit {
            permit.how = permit.judge(&end);
        }
    }
}

/// One of so many.
pub(super) struct Permit {
    shared: Arc<Shared>,
    since: Seconds,
    seat: Seat,
    protocol: Protocol,
    /// Whether the call is known to be a stream before its head.
    streams: bool,
    place: Place,
    head: Option<Outcome>,
    how: How,
}

/// Where a permit is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the limit.
    Limit,
    /// In the limit, though it is a stream: there was no room for more of them.
    Misplaced,
    Streams,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Served,
    Failed,
    Cancelled,
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, since: Seconds, seat: Seat, streams: bool) -> Self {
        Self {
            shared,
            since,
            seat,
            protocol: Protocol::Http,
            streams,
            place: Place::Limit,
            head: None,
            how: How::Cancelled,
        }
    }

    fn head<B>(&mut self, response: &Response<B>, upgrades: bool) {
        let (status, headers) = (response.status(), response.headers());
        let is_grpc = self.protocol.is_grpc();
        let grpc = if is_grpc { GrpcCode::of(headers) } else { None };
        // The answer of a layer further in is none of the service.
        let own = response.extensions().get::<Rejection>();
        let outcome = own.map_or_else(
            || Outcome::of_status(status, grpc),
            |rejection| Outcome::Rejected(rejection.reason()),
        );
        self.head = Some(outcome);
        if outcome == Outcome::Ok && (self.streams || upgrades || is_stream(status, headers)) {
            let now = self.shared.now();
            let sample = self.sample(How::Served, now);
            let moved = self.shared.become_stream(self.seat, sample, now);
            self.place = if moved {
                Place::Streams
            } else {
                Place::Misplaced
            };
        }
    }

    fn judge(&self, end: &End<'_>) -> How {
        let outcome = match (end, self.head) {
            (End::Complete { trailers }, Some(Outcome::Ok)) => match trailers {
                Some(trailers) if self.protocol.is_grpc() => {
                    Outcome::of_status(StatusCode::OK, GrpcCode::of(trailers))
                }
                _ => Outcome::Ok,
            },
            (End::Complete { .. }, Some(other)) => other,
            (End::Dropped, _) => return How::Cancelled,
            (End::Complete { .. }, None) | (End::Failed(_) | End::Panicked, _) => {
                return How::Failed;
            }
        };
        if outcome == Outcome::Ok {
            How::Served
        } else {
            How::Failed
        }
    }

    fn sample(&self, how: How, now: Seconds) -> Sample {
        let time = now - self.since;
        match how {
            How::Served => Sample::Served(time),
            How::Failed => Sample::Failed(time),
            How::Cancelled => Sample::Cancelled,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.shared.now();
        match mem::replace(&mut self.place, Place::Limit) {
            Place::Limit => {
                let sample = self.sample(self.how, now);
                self.shared.give_back(self.seat, sample, now);
            }
            Place::Misplaced => {
                let sample = Sample::Nothing(now - self.since);
                self.shared.give_back(self.seat, sample, now);
            }
            Place::Streams => self.shared.end_stream(now),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("limit", &self.shared.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Whether what follows lasts as long as somebody listens: server-sent events, or another protocol.
fn is_stream(status: StatusCode, headers: &HeaderMap) -> bool {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return true;
    }
    let media_type = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let sse = b"text/event-stream";
    media_type
        .and_then(|media_type| media_type.get(..sse.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(sse))
}
