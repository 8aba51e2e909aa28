//! Where in a head a connection is, told by its bytes: so much of HTTP/1.1 and HTTP/2 as the timer of heads needs.

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// Follows what a peer sends, and tells whether it owes the rest of a head.
#[derive(Debug)]
pub(super) enum Heads {
    /// Not yet decided: so many bytes of the preface have come.
    Unknown(usize),
    /// HTTP/1: a head begins with any byte that comes while no call runs. That a head is complete is told by its call.
    One {
        owes: bool,
    },
    Two(Frames),
}

/// HTTP/2 by its frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; FRAME_HEAD],
    /// How many bytes of the frame's head have come.
    filled: usize,
    /// How many bytes of its payload are still to come.
    payload: usize,
    /// Whether that payload is a call's body, which other timers watch.
    is_data: bool,
    /// Whether a block of headers was begun and not ended.
    in_block: bool,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self::Unknown(0)
    }

    /// Takes what has come while so many calls were running.
    pub(super) fn take(&mut self, mut bytes: &[u8], calls: usize) {
        if let Self::Unknown(seen) = self {
            let expected = PREFACE.get(*seen..).unwrap_or_default();
            let common = bytes.len().min(expected.len());
            let (now, rest) = bytes.split_at(common);
            if !expected.starts_with(now) {
                *self = Self::One { owes: true };
                return;
            }
            *seen = seen.saturating_add(common);
            if *seen < PREFACE.len() {
                return;
            }
            *self = Self::Two(Frames::default());
            bytes = rest;
        }
        match self {
            Self::Unknown(_) => {}
            Self::One { owes } => *owes |= calls == 0 && !bytes.is_empty(),
            Self::Two(frames) => frames.take(bytes),
        }
    }

    /// A call has begun: its head is complete.
    pub(super) fn called(&mut self) {
        if let Self::One { owes } = self {
            *owes = false;
        }
    }

    /// Whether the peer owes the rest of something that it began.
    pub(super) fn owes(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::One { owes } => *owes,
            Self::Two(frames) => frames.owes(),
        }
    }

    pub(super) fn is_two(&self) -> bool {
        matches!(self, Self::Two(_))
    }
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let taken = self.payload.min(bytes.len());
                self.payload = self.payload.saturating_sub(taken);
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            let wanted = FRAME_HEAD.saturating_sub(self.filled);
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            for (place, byte) in self.head.iter_mut().skip(self.filled).zip(now) {
                *place = *byte;
            }
            self.filled = self.filled.saturating_add(now.len());
            bytes = rest;
            if self.filled == FRAME_HEAD {
                self.filled = 0;
                self.begin();
            }
        }
    }

    /// The head of a frame is complete.
    fn begin(&mut self) {
        let [long, mid, short, kind, flags, ..] = self.head;
        self.payload = usize::from(long) << 16 | usize::from(mid) << 8 | usize::from(short);
        self.is_data = kind == DATA;
        if kind == HEADERS || kind == CONTINUATION {
            self.in_block = flags & END_HEADERS == 0;
        }
    }

    fn owes(&self) -> bool {
        self.in_block || self.filled > 0 || (self.payload > 0 && !self.is_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    /// Whether it owes something after each byte.
    fn owes(bytes: &[u8], heads: &mut Heads) -> Vec<bool> {
        bytes
            .iter()
            .map(|byte| {
                heads.take(&[*byte], 0);
                heads.owes()
            })
            .collect()
    }

    #[test]
    fn a_head_of_http1_is_owed_from_its_first_byte_until_its_call() {
        let mut heads = Heads::new();
        assert!(heads.owes(), "from the start");
        heads.take(b"GET / HTT", 0);
        assert!(heads.owes() && !heads.is_two());
        heads.take(b"P/1.1\r\n\r\n", 0);
        heads.called();
        assert!(!heads.owes());
        heads.take(b"the rest of a body", 1);
        assert!(!heads.owes());
        heads.take(b"P", 0);
        assert!(heads.owes());
    }

    #[test]
    fn what_begins_like_the_preface_and_goes_on_otherwise_is_http1() {
        let mut heads = Heads::new();
        assert!(
            owes(b"PRI * HTTP/1.1\r\n", &mut heads)
                .iter()
                .all(|owes| *owes)
        );
        assert!(!heads.is_two());
    }

    #[test]
    fn frames_of_http2_are_owed_until_they_are_whole() {
        let mut heads = Heads::new();
        heads.take(PREFACE, 0);
        assert!(heads.is_two() && !heads.owes());
        let ping = owes(&frame(0x6, 0, &[0; 8]), &mut heads);
        assert_eq!(ping.iter().filter(|owes| **owes).count(), 16);
        assert!(!heads.owes());
        // A block of headers is owed until its last continuation.
        heads.take(&frame(HEADERS, 0, b"abc"), 0);
        assert!(heads.owes());
        heads.take(&frame(CONTINUATION, 0, b"def"), 0);
        assert!(heads.owes());
        heads.take(&frame(CONTINUATION, END_HEADERS, b""), 0);
        assert!(!heads.owes());
        // A body is somebody else's matter.
        heads.take(&frame(DATA, 0, b"a body")[..10], 1);
        assert!(!heads.owes());
    }
}
