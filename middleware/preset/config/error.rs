use std::{error::Error, fmt, path::PathBuf};

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// The program.
    Program,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1, unless it could not be read at all.
        line: Option<usize>,
    },
    /// A variable of the environment.
    Variable {
        /// Its name.
        name: String,
    },
}

impl Origin {
    /// Whether somebody set it, wherever.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::Default
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::Program => f.write_str("set by the program"),
            Self::File { path, line: None } => path.display().fmt(f),
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}, line {line}", path.display()),
            Self::Variable { name } => write!(f, "set by {name}"),
        }
    }
}

/// What is wrong with a configuration: a key that does not exist, a value that cannot be, two that contradict each other,
/// or a file that cannot be read.
#[derive(Debug)]
pub struct ConfigError {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) problem: String,
    pub(super) source: Option<std::io::Error>,
}

impl ConfigError {
    pub(super) fn new(key: &str, origin: &Origin, problem: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            origin: origin.clone(),
            problem: problem.into(),
            source: None,
        }
    }

    /// The setting, as `timeout.head`; empty where a file cannot be read or is no TOML.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where it was set.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            origin,
            problem,
            ..
        } = self;
        match (key.as_str(), origin) {
            ("", _) => write!(f, "{}: {problem}", plain(origin)),
            (_, Origin::Variable { name }) => write!(f, "{name} ({key}): {problem}"),
            _ => write!(f, "`{}` ({}): {problem}", plain(key), plain(origin)),
        }
    }
}

/// As a terminal may show it: keys and paths can be anything.
fn plain(text: impl fmt::Display) -> String {
    let mut plain = String::new();
    for letter in text.to_string().chars() {
        match letter {
            '"' | '\'' | '\\' => plain.push(letter),
            _ => plain.extend(letter.escape_debug()),
        }
    }
    plain
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
