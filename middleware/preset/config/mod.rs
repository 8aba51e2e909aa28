//! What a stack is told: by the program, by a file over it, by the environment over both.

mod check;
mod error;
mod keys;
mod value;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read as _},
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use self::error::{ConfigError, Origin};
pub(crate) use self::{
    check::Program,
    keys::{KEYS, Key, PREFIX},
    value::Value,
};
use self::{
    keys::{find, known, parts, variable},
    value::Written,
};
use crate::{ops::TOKEN, server::rate_limit::Quotas};

/// Longer than any configuration; what is longer is another file.
const MAX_BYTES: u64 = 1 << 20;
/// Names the file.
pub(crate) const CONFIG: &str = "PLIMSOLL_CONFIG";
/// Variables of other parts.
const OTHERS: [&str; 2] = [CONFIG, TOKEN];

/// All that can tell a setting, as it was found.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    /// Set by the program, the last of a name counts.
    pub(crate) program: Vec<(String, String)>,
    /// Also set by the program.
    pub(crate) quotas: Option<Quotas>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) variables: Vec<(String, OsString)>,
}

/// All settings, each from where it counts.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    all: BTreeMap<&'static str, (Value, Origin)>,
}

impl Sources {
    /// The text of the file, if one is named.
    pub(crate) fn read(&self) -> Result<Option<String>, ConfigError> {
        self.path.as_deref().map(read).transpose()
    }

    /// Of a file that has become empty by itself.
    pub(crate) fn emptied(&self) -> ConfigError {
        let path = self.path.clone().unwrap_or_default();
        let origin = Origin::File { path, line: None };
        ConfigError::new(
            "",
            &origin,
            "the file has become empty; SIGHUP would take it",
        )
    }

    /// Puts together what the program, this file and the environment say.
    pub(crate) fn values(
        &self,
        file: Option<&str>,
        program: Program,
    ) -> Result<Values, ConfigError> {
        let mut values = Values::defaults();
        for (name, text) in &self.program {
            values.set(name, &Written::Plain(text.clone()), Origin::Program)?;
        }
        if let Some(quotas) = &self.quotas {
            let value = Value::Quotas(quotas.clone());
            let known = ("rate_limit.quotas", (value, Origin::Program));
            values.all.extend([known]);
        }
        if let (Some(path), Some(text)) = (&self.path, file) {
            values.take_file(path, text)?;
        }
        for (name, text) in &self.variables {
            values.take_variable(name, text)?;
        }
        values.check(program)?;
        Ok(values)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let wrong = |problem: &str, source: Option<io::Error>| ConfigError {
        key: String::new(),
        origin: Origin::File {
            path: path.to_owned(),
            line: None,
        },
        problem: problem.to_owned(),
        source,
    };
    let unreadable = |source| wrong("the file cannot be read", Some(source));
    // To open a pipe would wait for somebody who writes into it.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(wrong("it is no file", None));
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if read.map_err(unreadable)? as u64 > MAX_BYTES {
        return Err(wrong("the file is larger than 1 MiB", None));
    }
    Ok(text)
}

impl Values {
    fn defaults() -> Self {
        let all = KEYS.iter().map(|key| {
            let written = Written::Plain(key.default.to_owned());
            let value = key.kind.read(&written).expect("defaults can be read");
            (key.name, (value, Origin::Default))
        });
        Self { all: all.collect() }
    }

    fn set(&mut self, name: &str, written: &Written, origin: Origin) -> Result<(), ConfigError> {
        let Some(key) = find(name) else {
            let known = known(parts(name).0);
            return Err(ConfigError::new(
                name,
                &origin,
                format!("there is no such setting; {known}"),
            ));
        };
        let value = key.kind.read(written);
        let value = value.map_err(|problem| ConfigError::new(name, &origin, problem))?;
        self.all.insert(key.name, (value, origin));
        Ok(())
    }

    /// Whether they contradict each other.
    pub(crate) fn check(&self, program: Program) -> Result<(), ConfigError> {
        check::check(self, program)
    }

    fn take_variable(&mut self, name: &str, text: &OsStr) -> Result<(), ConfigError> {
        if !name.starts_with(PREFIX) || OTHERS.contains(&name) || is_service_link(name, text) {
            return Ok(());
        }
        let origin = Origin::Variable {
            name: name.to_owned(),
        };
        let Some(key) = KEYS.iter().find(|key| variable(key.name) == name) else {
            return Err(ConfigError::new(
                "",
                &origin,
                "there is no such setting; `timeout.head` is PLIMSOLL_TIMEOUT_HEAD",
            ));
        };
        // As OpenTelemetry says of its own.
        if text.is_empty() {
            return Ok(());
        }
        match text.to_str() {
            Some(text) => self.set(key.name, &Written::Plain(text.to_owned()), origin),
            None => Err(ConfigError::new(key.name, &origin, "it is not UTF-8")),
        }
    }

    fn take_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let at = |byte: usize| Origin::File {
            path: path.to_owned(),
            line: Some(line_of(text, byte)),
        };
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ConfigError::new("", &at(start), error.message().trim())
        })?;
        for (section, inner) in table.get_ref().iter() {
            let origin = at(section.span().start);
            let name = section.get_ref();
            let DeValue::Table(settings) = inner.get_ref() else {
                let problem = format!("settings stand in sections; {}", known(""));
                return Err(ConfigError::new(name, &origin, problem));
            };
            if !KEYS.iter().any(|key| parts(key.name).0 == name.as_ref()) {
                let problem = format!("there is no such section; {}", known(""));
                return Err(ConfigError::new(name, &origin, problem));
            }
            for (key, value) in settings.iter() {
                let key_name = format!("{name}.{}", key.get_ref());
                self.set(&key_name, &written(value), at(key.span().start))?;
            }
        }
        Ok(())
    }

    fn get(&self, name: &'static str) -> &Value {
        &self.entry(name).0
    }

    fn entry(&self, name: &'static str) -> &(Value, Origin) {
        self.all.get(name).expect("every setting has a value")
    }

    /// Whether somebody set it.
    pub(crate) fn is_set(&self, name: &'static str) -> bool {
        self.entry(name).1.is_set()
    }

    pub(crate) fn shown(&self, name: &'static str) -> &dyn std::fmt::Display {
        self.get(name)
    }

    pub(crate) fn switch(&self, name: &'static str) -> bool {
        matches!(self.get(name), Value::Switch(true))
    }

    pub(crate) fn time(&self, name: &'static str) -> Option<Duration> {
        match self.get(name) {
            Value::Time(time) => Some(*time),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &'static str) -> Option<u64> {
        match self.get(name) {
            Value::Count(number) | Value::Size(number) => Some(*number),
            _ => None,
        }
    }

    /// A number as a count that is not zero; the largest there is, if it is larger.
    pub(crate) fn count(&self, name: &'static str) -> Option<NonZeroUsize> {
        let number = self.number(name)?;
        NonZeroUsize::new(usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// As [`Values::count`], of 32 bits.
    pub(crate) fn count32(&self, name: &'static str) -> Option<NonZeroU32> {
        let number = self.number(name)?;
        NonZeroU32::new(u32::try_from(number).unwrap_or(u32::MAX))
    }

    pub(crate) fn ratio(&self, name: &'static str) -> Option<f64> {
        match self.get(name) {
            Value::Ratio(ratio) => Some(*ratio),
            _ => None,
        }
    }

    pub(crate) fn word(&self, name: &'static str) -> &str {
        match self.get(name) {
            Value::Word(word) => word,
            _ => "",
        }
    }

    pub(crate) fn text(&self, name: &'static str) -> Option<&str> {
        match self.get(name) {
            Value::Text(text) | Value::Url(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn quotas(&self, name: &'static str) -> Option<&Quotas> {
        match self.get(name) {
            Value::Quotas(quotas) => Some(quotas),
            _ => None,
        }
    }

    /// The settings in which the other ones differ.
    pub(crate) fn changes<'a>(&'a self, to: &'a Self) -> impl Iterator<Item = &'static Key> + 'a {
        KEYS.iter()
            .filter(|key| self.get(key.name) != to.get(key.name))
    }

    /// Where settings that are the same come from now: what somebody set can contradict what a default gives way to.
    pub(crate) fn adopt_origins(&mut self, from: &Self) {
        for key in KEYS {
            if self.get(key.name) == from.get(key.name) {
                self.adopt(key, from);
            }
        }
    }

    /// These, with one setting of the others.
    pub(crate) fn adopt(&mut self, key: &'static Key, from: &Self) {
        self.all.insert(key.name, from.entry(key.name).clone());
    }
}

/// Kubernetes tells each container of a service that is called `plimsoll`, or `plimsoll-something`, by variables like these,
/// unless `enableServiceLinks` is off.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let is_address = value
        .split_once("://")
        .is_some_and(|(protocol, _)| matches!(protocol, "tcp" | "udp" | "sctp"));
    let of_port = name.split("_PORT_").skip(1).any(|rest| {
        rest.starts_with(|first: char| first.is_ascii_digit())
            && ["_TCP", "_UDP", "_SCTP"]
                .iter()
                .any(|protocol| rest.contains(protocol))
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || of_port
        || (name.ends_with("_PORT") && is_address)
}

fn written(value: &Spanned<DeValue<'_>>) -> Written {
    match value.get_ref() {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or(Written::Other("a number that is too large"), Written::Whole)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse();
            parsed.map_or(Written::Other("no number"), Written::Real)
        }
        DeValue::Boolean(on) => Written::Switch(*on),
        DeValue::Array(parts) => {
            let texts = parts.iter().map(|part| match part.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            let texts: Option<Vec<String>> = texts.collect();
            texts.map_or(
                Written::Other("a list of other things than texts"),
                Written::List,
            )
        }
        DeValue::Datetime(_) => Written::Other("a date"),
        DeValue::Table(_) => Written::Other("a table"),
    }
}

/// The line in which a byte stands, from 1.
fn line_of(text: &str, byte: usize) -> usize {
    let before = text.bytes().take(byte);
    before
        .filter(|byte| *byte == b'\n')
        .count()
        .saturating_add(1)
}

#[cfg(test)]
mod tests;
