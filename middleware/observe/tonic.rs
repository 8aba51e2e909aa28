use super::{Around, cast};

pub(super) fn wrap<B: 'static, A: Around>(body: B, around: A) -> Result<B, (B, A)> {
    let body: tonic::body::Body = match cast(body) {
        Ok(body) => body,
        Err(body) => return Err((body, around)),
    };
    let wrapped = tonic::body::Body::new(around.around(body));
    Ok(cast(wrapped).unwrap_or_else(|_| unreachable!("it was cast from this type")))
}
