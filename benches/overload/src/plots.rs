//! x
use crate::run::Row;
use std::path::Path;
pub(crate) fn write(_: &[Row], _: &Path) -> Result<(), String> {
    Ok(())
}
