use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{Frame, Scope, current};

pin_project! {
    /// Future of [`in_current_call`].
    #[derive(Debug)]
    pub struct InCall<F> {
        // `None` once it is dropped.
        #[pin]
        future: Option<F>,
        scope: Scope,
    }

    impl<F> PinnedDrop for InCall<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.scope.enter();
            this.future.set(None);
        }
    }
}

/// Carries the ids of the current call, and the current `tracing` span, into a future that runs in another task:
/// its log lines and outbound calls bear them.
///
/// ```
/// # async fn handler() -> Result<(), tokio::task::JoinError> {
/// # async fn mail() {}
/// let mailed = tokio::task::JoinSet::from_iter([plimsoll::context::in_current_call(mail())]);
/// mailed.join_all().await;
/// # Ok(())
/// # }
/// ```
///
/// Outside of a call it changes nothing. The task does not keep the call open: the line of the call is written when
/// the response ends, whether the task has ended or not.
pub fn in_current_call<F: Future>(future: F) -> InCall<F> {
    InCall {
        future: Some(future),
        scope: Scope::of_ids(current(Frame::ids)),
    }
}

impl<F: Future> Future for InCall<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.scope.enter();
        let future = this.future.as_pin_mut();
        future.expect("not dropped yet").poll(context)
    }
}
