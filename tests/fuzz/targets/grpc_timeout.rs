//! A `grpc-timeout` is read if and only if it is one to eight digits and a unit, and then exactly.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use plimsoll::protocol::GrpcTimeout;

fn expected(data: &[u8]) -> Option<Duration> {
    let (unit, digits) = data.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u128 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let nanos = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let whole = amount * nanos;
    Some(Duration::new(
        (whole / 1_000_000_000) as u64,
        (whole % 1_000_000_000) as u32,
    ))
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(
        GrpcTimeout::parse(data)
            .ok()
            .map(|timeout| timeout.duration()),
        expected(data)
    );
});
