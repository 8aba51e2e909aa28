use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    context::Scope,
    limit::{Admission, Desk, Waiting},
    observe::{BoxError, ResponseBody, ResponseFuture},
    rejection::Rejection,
};

pin_project! {
    /// A call that may wait before the service is asked.
    ///
    /// Dropping it leaves the room, or drops the call and gives its permit back.
    #[must_use = "futures do nothing unless polled"]
    pub struct BackPressureFuture<S, B, F> {
        #[pin]
        stage: Stage<S, B, F>,
    }
}

pin_project! {
    #[project = StageProjection]
    pub(super) enum Stage<S, B, F> {
        // Boxed, so that the futures of calls that need not wait stay small.
        Waiting { queued: Pin<Box<Queued<S, B>>> },
        Called {
            #[pin]
            inner: ResponseFuture<F, Admission>,
        },
    }
}

pin_project! {
    /// All that a call takes along while it waits.
    pub(super) struct Queued<S, B> {
        desk: Desk,
        #[pin]
        waiting: Waiting,
        // `None` once the service is called.
        held: Option<Held<S, B>>,
        // What became of it, once the waiting is over.
        entered: Option<Result<Admission, Rejection>>,
    }
}

struct Held<S, B> {
    service: S,
    request: Request<B>,
    scope: Scope,
}

type Called<F, E> = Result<ResponseFuture<F, Admission>, E>;

impl<S, B> Queued<S, B> {
    pub(super) fn new(
        desk: Desk,
        waiting: Waiting,
        service: S,
        request: Request<B>,
        scope: Scope,
    ) -> Self {
        Self {
            desk,
            waiting,
            held: Some(Held {
                service,
                request,
                scope,
            }),
            entered: None,
        }
    }

    fn poll_called(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Called<S::Future, S::Error>>
    where
        S: Service<Request<B>>,
    {
        let this = self.project();
        let held = this.held.as_mut();
        let held = held.expect("not polled again after the service was called");
        if this.entered.is_none() {
            let (visit, arrived, verdict) = ready!(this.waiting.poll(context));
            let entered = this.desk.after(&visit, arrived, verdict, &mut held.scope);
            *this.entered = Some(entered);
        }
        if let Some(Ok(_)) = this.entered {
            let ready = ready!(held.service.poll_ready(context));
            ready.inspect_err(|_| *this.entered = None)?;
        }
        let (held, entered) = (this.held.take(), this.entered.take());
        let (held, entered) = held.zip(entered).expect("both are there until then");
        let Held {
            mut service,
            mut request,
            mut scope,
        } = held;
        Poll::Ready(Ok(match entered {
            Ok(admission) => {
                let admission = admission.to(&mut request, &mut scope);
                ResponseFuture::call(&mut service, request, admission, scope)
            }
            Err(no) => ResponseFuture::refuse(no, request, scope),
        }))
    }
}

impl<S, B, F> Stage<S, B, F> {
    pub(super) fn waiting(queued: Queued<S, B>) -> Self {
        Self::Waiting {
            queued: Box::pin(queued),
        }
    }
}

impl<S, B, F> BackPressureFuture<S, B, F> {
    pub(super) fn of(stage: Stage<S, B, F>) -> Self {
        Self { stage }
    }
}

impl<S, B, ResBody> Future for BackPressureFuture<S, B, S::Future>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<ResBody, Admission>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        if let StageProjection::Waiting { queued } = stage.as_mut().project() {
            let inner = ready!(queued.as_mut().poll_called(context))?;
            // Waiting -> Called
            stage.set(Stage::Called { inner });
        }
        match stage.project() {
            StageProjection::Called { inner } => inner.poll(context),
            StageProjection::Waiting { .. } => Poll::Pending,
        }
    }
}

impl<S, B, F> fmt::Debug for BackPressureFuture<S, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Waiting { .. } => "waiting",
            Stage::Called { .. } => "called",
        };
        f.debug_struct("BackPressureFuture")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
