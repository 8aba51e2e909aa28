use std::error::Error;

use tonic::Status;

use super::GrpcCode;

/// The status of gRPC that an error carries, itself or further down its chain.
pub(crate) fn status_in(error: &(dyn Error + 'static)) -> Option<GrpcCode> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(status) = error.downcast_ref::<Status>() {
            return u32::try_from(i32::from(status.code()))
                .ok()
                .map(GrpcCode::from_number);
        }
        next = error.source();
    }
    None
}
