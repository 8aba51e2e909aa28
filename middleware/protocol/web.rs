//! The framing of gRPC-Web: messages, and a last frame with the trailers.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::code::GRPC_STATUS;

/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;
/// Flag and length in front of each frame.
const PREFIX: usize = 5;
/// Trailers past this are not read. gRPC keeps them under 8 KiB by default.
const MAX_TRAILERS: usize = 64 * 1_024;

/// Follows the frames of a body as it passes, to find the trailers. It keeps no more than those.
#[derive(Debug)]
pub(crate) struct Scanner {
    base64: Option<Base64>,
    at: At,
    trailers: Option<HeaderMap>,
}

#[derive(Debug)]
enum At {
    /// So many bytes of a prefix are known.
    Prefix([u8; PREFIX], usize),
    /// So many bytes of a message are still to come.
    Message(usize),
    /// So many bytes of the trailers are still to come.
    Trailers(Vec<u8>, usize),
}

impl At {
    const START: Self = Self::Prefix([0; PREFIX], 0);
}

impl Scanner {
    pub(crate) fn binary() -> Self {
        Self {
            base64: None,
            at: At::START,
            trailers: None,
        }
    }

    pub(crate) fn text() -> Self {
        Self {
            base64: Some(Base64::default()),
            ..Self::binary()
        }
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        let between_frames = matches!(self.at, At::Prefix(_, 0));
        self.trailers.as_ref().filter(|_| between_frames)
    }

    /// A last frame with these trailers. `None` in the midst of a frame: there the body can only be cut.
    pub(crate) fn frame_of(&self, trailers: &HeaderMap) -> Option<Bytes> {
        if self.trailers.is_some()
            || !matches!(self.at, At::Prefix(_, 0))
            || self
                .base64
                .as_ref()
                .is_some_and(|base64| base64.pending > 0)
        {
            return None;
        }
        let mut text = BytesMut::new();
        for (name, value) in trailers {
            text.put_slice(name.as_str().as_bytes());
            text.put_slice(b":");
            text.put_slice(value.as_bytes());
            text.put_slice(b"\r\n");
        }
        let mut frame = BytesMut::with_capacity(text.len().saturating_add(PREFIX));
        frame.put_u8(TRAILERS);
        frame.put_u32(u32::try_from(text.len()).expect("trailers of ours are short"));
        frame.put_slice(&text);
        Some(if self.base64.is_some() {
            encode(&frame)
        } else {
            frame.freeze()
        })
    }

    pub(crate) fn take(&mut self, data: &[u8]) {
        match self.base64.take() {
            None => self.scan(data),
            Some(mut base64) => {
                let decoded = base64.decode(data);
                self.base64 = Some(base64);
                self.scan(&decoded);
            }
        }
    }

    fn scan(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            match &mut self.at {
                At::Prefix(prefix, known) => {
                    let free = prefix.get_mut(*known..).unwrap_or_default();
                    let (now, rest) = data.split_at(free.len().min(data.len()));
                    free.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
                    *known = known.saturating_add(now.len());
                    data = rest;
                    if *known == PREFIX {
                        let [flag, length @ ..] = *prefix;
                        let length =
                            usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                        let is_trailers = flag & TRAILERS != 0 && length <= MAX_TRAILERS;
                        self.at = if is_trailers {
                            At::Trailers(Vec::new(), length)
                        } else {
                            At::Message(length)
                        };
                        self.close_if_complete();
                    }
                }
                At::Message(left) => {
                    let (now, rest) = data.split_at(data.len().min(*left));
                    *left = left.saturating_sub(now.len());
                    data = rest;
                    self.close_if_complete();
                }
                At::Trailers(text, left) => {
                    let (now, rest) = data.split_at(data.len().min(*left));
                    text.extend_from_slice(now);
                    *left = left.saturating_sub(now.len());
                    data = rest;
                    self.close_if_complete();
                }
            }
        }
    }

    fn close_if_complete(&mut self) {
        match &self.at {
            At::Message(0) => self.at = At::START,
            At::Trailers(text, 0) => {
                // Those without a status end nothing.
                self.trailers = Some(parse(text)).filter(|found| found.contains_key(GRPC_STATUS));
                self.at = At::START;
            }
            At::Prefix(..) | At::Message(_) | At::Trailers(..) => {}
        }
    }
}

/// Reads lines of `name: value`. What is no header is passed over: without a status the end counts as broken anyway.
fn parse(text: &[u8]) -> HeaderMap {
    let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines
        .filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = line.split_at_checked(colon)?;
            let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
            let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
            Some((name, value))
        })
        .collect()
}

/// Base64 in groups of four, which a sender may pad anywhere (each message is encoded alone).
#[derive(Debug, Default)]
struct Base64 {
    bits: u32,
    pending: u32,
}

impl Base64 {
    fn decode(&mut self, text: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::with_capacity(text.len());
        for &byte in text {
            let value = match byte {
                b'A'..=b'Z' => byte.wrapping_sub(b'A'),
                b'a'..=b'z' => byte.wrapping_sub(b'a').wrapping_add(26),
                b'0'..=b'9' => byte.wrapping_sub(b'0').wrapping_add(52),
                b'+' => 62,
                b'/' => 63,
                b'=' => {
                    // A group of two or three digits ends here; its whole bytes are out already.
                    *self = Self::default();
                    continue;
                }
                _ => continue,
            };
            self.bits = (self.bits << 6 | u32::from(value)) & 0xFFFF;
            self.pending = self.pending.saturating_add(6);
            if self.pending >= 8 {
                self.pending = self.pending.saturating_sub(8);
                decoded.push(
                    u8::try_from(self.bits >> self.pending & 0xFF).expect("masked to a byte"),
                );
            }
        }
        decoded
    }
}

fn encode(data: &[u8]) -> Bytes {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32, shift: u32| {
        let index = usize::try_from(bits >> shift & 63).expect("six bits");
        *DIGITS.get(index).expect("six bits")
    };
    let mut text = BytesMut::with_capacity(data.len().div_ceil(3).saturating_mul(4));
    for group in data.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digits = [
            digit(bits, 18),
            digit(bits, 12),
            digit(bits, 6),
            digit(bits, 0),
        ];
        let (known, padding) = digits.split_at(group.len().saturating_add(1));
        text.put_slice(known);
        text.put_bytes(b'=', padding.len());
    }
    text.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(messages: &[Vec<u8>], with_trailers: bool) -> Vec<u8> {
        let mut body = Vec::new();
        for message in messages {
            body.push(0);
            body.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
            body.extend_from_slice(message);
        }
        if with_trailers {
            let text = b"grpc-status:13\r\ngrpc-message: oh no\r\n";
            body.push(TRAILERS);
            body.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
            body.extend_from_slice(text);
        }
        body
    }

    fn status(scanner: &Scanner) -> Option<&[u8]> {
        scanner
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .map(HeaderValue::as_bytes)
    }

    proptest! {
        #[test]
        fn finds_the_trailers_however_the_body_is_cut_into_chunks(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            chunk in 1_usize..20,
            with_trailers in any::<bool>(),
        ) {
            let body = body(&messages, with_trailers);
            for (mut scanner, wire) in [(Scanner::binary(), body.clone()), (Scanner::text(), encode(&body).to_vec())] {
                wire.chunks(chunk).for_each(|chunk| scanner.take(chunk));
                prop_assert_eq!(status(&scanner), with_trailers.then_some(&b"13"[..]));
            }
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut binary = Scanner::binary();
            binary.take(&bytes);
            let mut text = Scanner::text();
            text.take(&bytes);
        }

        #[test]
        fn base64_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(Base64::default().decode(&encode(&bytes)), bytes);
        }
    }

    #[test]
    fn its_own_frame_is_understood_and_only_made_between_frames() {
        let trailers: HeaderMap = [(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("13"),
        )]
        .into_iter()
        .collect();
        for mut scanner in [Scanner::binary(), Scanner::text()] {
            let frame = scanner.frame_of(&trailers).expect("between frames");
            scanner.take(&frame);
            assert_eq!(status(&scanner), Some(&b"13"[..]));
        }
        let mut scanner = Scanner::binary();
        scanner.take(&[0, 0, 0, 0, 9, 1, 2]);
        assert_eq!(scanner.frame_of(&trailers), None);
    }

    #[test]
    fn trailers_without_a_status_or_with_half_a_frame_behind_them_end_nothing() {
        let frame = |text: &[u8]| {
            let length = u8::try_from(text.len()).expect("short");
            [&[TRAILERS, 0, 0, 0, length], text].concat()
        };
        let whole = frame(b"grpc-status:0");
        for (body, ends) in [
            (whole.clone(), true),
            (frame(b""), false),
            (frame(b"grpc-message:ok\r\n"), false),
            ([&whole[..], &[0, 0]].concat(), false),
            ([&whole[..], &[0, 0, 0, 0, 9, 1]].concat(), false),
        ] {
            let mut scanner = Scanner::binary();
            scanner.take(&body);
            assert_eq!(scanner.trailers().is_some(), ends, "{body:?}");
        }
    }

    #[test]
    fn each_message_may_be_padded_alone() {
        let mut scanner = Scanner::text();
        scanner.take(&encode(&body(&[vec![1]], false)));
        scanner.take(&encode(&body(&[vec![1, 2]], true)));
        assert_eq!(status(&scanner), Some(&b"13"[..]));
    }
}
