use std::{error::Error, fmt, sync::Arc};

/// The cause of an error answer, for the log. A handler that turns an error into a 5xx puts it into the response's
/// extensions, so that the line of the call tells the whole chain; the caller never sees it.
///
/// ```
/// # use http::{Response, StatusCode};
/// # use plimsoll::context::Failure;
/// fn answer(error: std::io::Error) -> Response<String> {
///     let mut response = Response::new("please try later".to_owned());
///     *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     response.extensions_mut().insert(Failure::new(error));
///     response
/// }
/// ```
///
/// Without it, the line of a 5xx bears `error_missing`.
#[derive(Clone)]
pub struct Failure {
    error: Arc<dyn Error + Send + Sync>,
    upstream: bool,
}

impl Failure {
    /// Keeps this error as the cause.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            error: Arc::from(error.into()),
            upstream: false,
        }
    }

    /// Keeps this error of a call to another service as the cause: the outcome is `upstream_error`.
    pub fn upstream(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            upstream: true,
            ..Self::new(error)
        }
    }

    /// Whether another service failed.
    pub fn is_upstream(&self) -> bool {
        self.upstream
    }

    /// The error.
    pub fn error(&self) -> &(dyn Error + 'static) {
        &*self.error
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

/// Writes the whole chain of an error: each cause after `: `, unless the text before already says it.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn tells_each_cause_once() {
        assert_eq!(
            chain(&Outer("no order", io::Error::other("disk"))),
            "no order: disk"
        );
        assert_eq!(
            chain(&Outer("no order: disk", io::Error::other("disk"))),
            "no order: disk"
        );
        assert_eq!(chain(Failure::new("plain").error()), "plain");
    }
}
