use std::sync::Arc;

use super::{Intake, Watched, cast};

pub(super) fn watch<B: 'static>(body: B, intake: &Arc<Intake>) -> Result<B, B> {
    let body: axum::body::Body = cast(body)?;
    let watched = axum::body::Body::new(Watched {
        inner: body,
        intake: Arc::clone(intake),
    });
    Ok(cast(watched).unwrap_or_else(|_| unreachable!("it was cast from this type")))
}
