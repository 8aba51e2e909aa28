use http::HeaderMap;

use super::Outbound;

impl Outbound for reqwest::Request {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}
