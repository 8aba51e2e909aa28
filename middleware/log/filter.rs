//! Which events are written, changed while the program runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;

use super::setup::SetupError;

/// Asked once for each place in the code that tells something, and again when it was changed: a line that is written
/// takes no lock here.
#[derive(Clone)]
pub(super) struct Filter(Arc<RwLock<Targets>>);

impl Filter {
    pub(super) fn new(targets: Targets) -> Self {
        Self(Arc::new(RwLock::new(targets)))
    }

    /// Puts another in its place, and asks every place in the code anew.
    pub(super) fn set(&self, targets: Targets) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = targets;
        tracing::callsite::rebuild_interest_cache();
        ::log::set_max_level(match LevelFilter::current() {
            LevelFilter::OFF => ::log::LevelFilter::Off,
            LevelFilter::ERROR => ::log::LevelFilter::Error,
            LevelFilter::WARN => ::log::LevelFilter::Warn,
            LevelFilter::INFO => ::log::LevelFilter::Info,
            LevelFilter::DEBUG => ::log::LevelFilter::Debug,
            LevelFilter::TRACE => ::log::LevelFilter::Trace,
        });
    }

    fn with<R>(&self, look: impl FnOnce(&Targets) -> R) -> R {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Filter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.with(|targets| Layer::<S>::register_callsite(targets, metadata))
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.with(|targets| Layer::<S>::enabled(targets, metadata, context))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.with(Layer::<S>::max_level_hint)
    }
}

/// As it can be parsed again.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|targets| targets.fmt(f))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

/// What these directives say; without any, what the environment says.
pub(super) fn targets(
    setting: Option<&str>,
    variable: impl Fn(&'static str) -> Result<Option<String>, SetupError>,
) -> Result<Targets, SetupError> {
    let (name, directives) = match setting {
        Some(directives) => ("filter", directives.to_owned()),
        None => ("RUST_LOG", variable("RUST_LOG")?.unwrap_or_default()),
    };
    if name == "RUST_LOG" && directives.trim().is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::INFO));
    }
    directives.parse().map_err(|source| SetupError::Filter {
        setting: name,
        directives,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables = [(&'static str, &'static str)];

    fn variable(set: &Variables) -> impl Fn(&'static str) -> Result<Option<String>, SetupError> {
        move |name| {
            let found = set.iter().find(|(key, _)| *key == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        }
    }

    #[test]
    fn the_filter_is_info_unless_told_otherwise() {
        let default = targets(None, variable(&[("RUST_LOG", " ")])).expect("valid");
        assert!(default.would_enable("any", &tracing::Level::INFO));
        assert!(!default.would_enable("any", &tracing::Level::DEBUG));
        let set = [("RUST_LOG", "warn,mine=debug")];
        assert!(
            targets(None, variable(&set))
                .expect("valid")
                .would_enable("mine", &tracing::Level::DEBUG)
        );
        let given = targets(Some("error"), variable(&set)).expect("valid");
        assert!(!given.would_enable("mine", &tracing::Level::WARN));
    }
}
