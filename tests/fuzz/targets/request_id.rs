//! An id is kept if and only if it is 1 to 128 of `[A-Za-z0-9._-]`, and then it is unchanged.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use plimsoll::context::RequestId;

const ALLOWED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

fuzz_target!(|data: &[u8]| {
    let is_safe = (1..=128).contains(&data.len()) && data.iter().all(|byte| ALLOWED.contains(byte));
    match RequestId::parse(data) {
        Ok(id) => {
            assert!(is_safe);
            assert_eq!(id.as_str().as_bytes(), data);
            assert_eq!(id.header().as_bytes(), data);
            assert_eq!(id.to_string().as_bytes(), data);
        }
        Err(error) => {
            assert!(!is_safe);
            assert!(!error.to_string().is_empty());
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        assert_eq!(RequestId::from_header(&value).is_ok(), is_safe);
    }
});
