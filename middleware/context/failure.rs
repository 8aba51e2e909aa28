use std::{
    error::Error,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

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

/// More causes than this are left out: an error may be its own cause.
const MOST_CAUSES: usize = 32;
/// A text is cut here. Four times the longest line, so that nothing is cut out of which a secret has yet to be taken.
const MOST_BYTES: usize = 64 * 1024;
/// Stands where the text of an error should, which panicked instead.
const PANICKED: &str = "<panicked while it was formatted>";
/// Stands where the text of an error should, which said that it has none.
const FAILED: &str = "<could not be formatted>";

/// The error and all its causes, each once: `no order: disk`. Whatever the errors do when they are asked for their text.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    guarded(&mut text, |text| {
        text.push_str(&said(error));
        let mut source = error.source();
        for _ in 0..MOST_CAUSES {
            let Some(cause) = source else {
                break;
            };
            let said = said(cause);
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
    });
    text
}

/// The text of an error, whatever it does when it is asked for it.
pub(crate) fn said(error: &dyn fmt::Display) -> String {
    let mut text = String::new();
    guarded(&mut text, |text| {
        let mut cut = Cut { text, full: false };
        if fmt::write(&mut cut, format_args!("{error}")).is_err() && !cut.full {
            text.push_str(FAILED);
        }
    });
    text
}

/// Runs code of users', which may panic. The panic is told by the hook, and the text says that there was one.
fn guarded(text: &mut String, run: impl FnOnce(&mut String)) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| run(text))) {
        // Dropping what was thrown may panic again.
        mem::forget(payload);
        text.push_str(PANICKED);
    }
}

/// Takes text up to its limit.
struct Cut<'a> {
    text: &'a mut String,
    full: bool,
}

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let mut end = MOST_BYTES.saturating_sub(self.text.len()).min(more.len());
        while !more.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let kept = more.get(..end).unwrap_or_default();
        self.text.push_str(kept);
        self.full = kept.len() < more.len();
        if self.full { Err(fmt::Error) } else { Ok(()) }
    }
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
