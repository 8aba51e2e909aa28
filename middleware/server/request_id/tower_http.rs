use http::Extensions;

use crate::context::RequestId;

/// Sets the id for code that was written for tower-http.
pub(super) fn set(extensions: &mut Extensions, id: &RequestId) {
    extensions.insert(tower_http::request_id::RequestId::new(id.header().clone()));
}
