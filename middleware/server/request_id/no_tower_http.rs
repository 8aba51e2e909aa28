use http::Extensions;

use crate::context::RequestId;

pub(super) fn set(_: &mut Extensions, _: &RequestId) {}
