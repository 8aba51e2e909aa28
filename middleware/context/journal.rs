use std::borrow::Cow;

use crate::outcome::Outcome;

/// The most causes and the most fields that one call keeps; more are counted, not kept.
const MAX_ENTRIES: usize = 32;

/// The value of a field that a handler adds to the line of its call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FieldValue {
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Signed(i64),
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A number; NaN and infinities are written as `null`.
    Float(f64),
    /// True or false.
    Bool(bool),
}

macro_rules! from {
    ($($source:ty => $variant:ident,)*) => {
        $(impl From<$source> for FieldValue {
            fn from(value: $source) -> Self { Self::$variant(value.into()) }
        })*
    };
}

from! {
    &'static str => Text, String => Text, Cow<'static, str> => Text,
    i8 => Signed, i16 => Signed, i32 => Signed, i64 => Signed,
    u8 => Unsigned, u16 => Unsigned, u32 => Unsigned, u64 => Unsigned,
    f32 => Float, f64 => Float, bool => Bool,
}

impl From<usize> for FieldValue {
    fn from(value: usize) -> Self {
        Self::Unsigned(u64::try_from(value).unwrap_or(u64::MAX))
    }
}

impl From<isize> for FieldValue {
    fn from(value: isize) -> Self {
        Self::Signed(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// One thing that went wrong in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) outcome: Outcome,
    /// The layer that saw it.
    pub(crate) layer: &'static str,
    /// The whole chain of the error.
    pub(crate) error: String,
}

/// What layers and handlers have written down about a call; read once, at its end.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    causes: Vec<Cause>,
    fields: Vec<(&'static str, FieldValue)>,
    /// Causes and fields past the most that are kept.
    left_out: usize,
}

impl Journal {
    /// Keeps a cause, once: several layers may see the same error pass.
    pub(crate) fn note(&mut self, cause: Cause) {
        if self.causes.iter().any(|known| known.error == cause.error) {
            return;
        }
        if self.causes.len() < MAX_ENTRIES {
            self.causes.push(cause);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Takes over what was written down elsewhere.
    pub(crate) fn append(&mut self, other: Self) {
        let Self {
            causes,
            fields,
            left_out,
        } = other;
        self.left_out = self.left_out.saturating_add(left_out);
        for cause in causes {
            self.note(cause);
        }
        for (name, value) in fields {
            // Past the most that are kept it is counted.
            self.set_field(name, value);
        }
    }

    /// The first cause, which is the outcome of the call, and the later ones.
    pub(crate) fn causes(&self) -> Option<(&Cause, &[Cause])> {
        self.causes.split_first()
    }

    /// Sets a field; the last value of a name counts. False if there are too many already.
    pub(crate) fn set_field(&mut self, name: &'static str, value: FieldValue) -> bool {
        if let Some((_, old)) = self.fields.iter_mut().find(|(known, _)| *known == name) {
            *old = value;
        } else if self.fields.len() < MAX_ENTRIES {
            self.fields.push((name, value));
        } else {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        }
        true
    }

    pub(crate) fn fields(&self) -> &[(&'static str, FieldValue)] {
        &self.fields
    }

    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }
}
