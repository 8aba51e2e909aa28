//! What the metrics say of calls, read from the exporter.

mod books;
mod ends;
mod handles;
mod labels;
mod support;
