use std::error::Error;

use super::GrpcCode;

/// Without the feature `tonic` no error is known to carry a status.
pub(crate) fn status_in(_: &(dyn Error + 'static)) -> Option<GrpcCode> {
    None
}
