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
    One(Messages),
    Two(Frames),
}

/// HTTP/1: a head begins with any byte that comes while no call runs, or behind what a running call takes. That a head is
/// complete is told by its call.
#[derive(Debug, Default)]
pub(super) struct Messages {
    owes: bool,
    /// The last four bytes.
    tail: [u8; 4],
    /// How many bytes came behind a head along with its end, if that is known.
    behind: Option<u64>,
    body: Left,
    /// Whether something came behind what the running call takes.
    is_ahead: bool,
}

/// The body of a request of HTTP/1, as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// What is to come of a body.
#[derive(Clone, Copy, Debug, Default)]
enum Left {
    Bytes(u64),
    /// Nobody looks: what comes meanwhile is taken for the body.
    #[default]
    Unknown,
}

/// How a head ends.
const BLANK: &[u8] = b"\r\n\r\n";

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
                let mut messages = Messages::default();
                messages.take(bytes, calls);
                *self = Self::One(messages);
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
            Self::One(messages) => messages.take(bytes, calls),
            Self::Two(frames) => frames.take(bytes),
        }
    }

    /// A call has begun: its head is complete, and this body follows.
    pub(super) fn called(&mut self, body: Framing) {
        if let Self::One(messages) = self {
            messages.called(body);
        }
    }

    /// The last call that ran has ended.
    pub(super) fn ended(&mut self) {
        if let Self::One(messages) = self {
            messages.owes |= std::mem::take(&mut messages.is_ahead) && messages.tail != *BLANK;
        }
    }

    /// Whether the peer owes the rest of something that it began.
    pub(super) fn owes(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::One(messages) => messages.owes,
            Self::Two(frames) => frames.owes(),
        }
    }

    pub(super) fn is_two(&self) -> bool {
        matches!(self, Self::Two(_))
    }
}

impl Messages {
    fn take(&mut self, bytes: &[u8], calls: usize) {
        match bytes.last_chunk() {
            Some(last) => self.tail = *last,
            None => {
                for byte in bytes {
                    let [_, second, third, fourth] = self.tail;
                    self.tail = [second, third, fourth, *byte];
                }
            }
        }
        if bytes.is_empty() {
            return;
        }
        if calls == 0 {
            self.owes = true;
            // Most often nothing follows a head, and that is seen without a search.
            self.behind = if self.tail == *BLANK {
                Some(0)
            } else {
                behind(bytes)
            };
            return;
        }
        if let Left::Bytes(left) = &mut self.body {
            let came = length(bytes);
            self.is_ahead |= came > *left;
            *left = left.saturating_sub(came);
        }
    }

    fn called(&mut self, body: Framing) {
        self.owes = false;
        let behind = self.behind.take();
        (self.body, self.is_ahead) = match (body, behind) {
            (Framing::None, _) => (Left::Bytes(0), self.tail != *BLANK),
            (Framing::Length(all), Some(came)) => {
                (Left::Bytes(all.saturating_sub(came)), came > all)
            }
            (Framing::Length(_), None) | (Framing::Chunked, _) => (Left::Unknown, false),
        };
    }
}

/// How many bytes stand behind the first head's end.
fn behind(bytes: &[u8]) -> Option<u64> {
    let end = bytes.windows(BLANK.len()).position(|part| part == BLANK)?;
    let (_, behind) = bytes.split_at_checked(end.saturating_add(BLANK.len()))?;
    Some(length(behind))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
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
            // Most often it comes whole.
            if self.filled == 0
                && let Some((head, rest)) = bytes.split_first_chunk()
            {
                self.head = *head;
                bytes = rest;
                self.begin();
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
        heads.called(Framing::Length(18));
        assert!(!heads.owes());
        heads.take(b"the rest of a body", 1);
        heads.ended();
        assert!(!heads.owes());
        heads.take(b"P", 0);
        assert!(heads.owes());
    }

    #[test]
    fn half_a_head_behind_a_call_is_owed_once_that_has_ended() {
        const GET: &str = "GET / HTTP/1.1\r\n\r\n";
        const POST: &str = "POST / HTTP/1.1\r\n\r\n";
        let cases = [
            (GET.to_owned(), "", Framing::None, false),
            (GET.to_owned(), "GET / HT", Framing::None, true),
            (GET.to_owned() + "GET / HT", "", Framing::None, true),
            (
                GET.to_owned() + "GET / HT",
                "TP/1.1\r\n\r\n",
                Framing::None,
                false,
            ),
            (POST.to_owned() + "body", "", Framing::Length(4), false),
            (POST.to_owned() + "bo", "dy", Framing::Length(4), false),
            (POST.to_owned(), "body", Framing::Length(4), false),
            (
                POST.to_owned() + "bodyGET / HT",
                "",
                Framing::Length(4),
                true,
            ),
            (
                POST.to_owned() + "bo",
                "dyGET / HT",
                Framing::Length(4),
                true,
            ),
            (POST.to_owned(), "bodyGET / HT", Framing::Length(4), true),
            // Where a body ends cannot be told then: nobody is accused.
            (POST.to_owned() + "\r\n\r\n", "", Framing::Length(4), false),
            (
                POST.to_owned() + "4\r\nbody\r\n0\r\n\r\n",
                "",
                Framing::Chunked,
                false,
            ),
            (POST.to_owned(), "4\r\nbo", Framing::Chunked, false),
        ];
        for (first, then, body, owes) in cases {
            let mut heads = Heads::new();
            heads.take(first.as_bytes(), 0);
            heads.called(body);
            heads.take(then.as_bytes(), 1);
            assert!(!heads.owes(), "{first}{then}: a call runs");
            heads.ended();
            assert_eq!(heads.owes(), owes, "{first}{then}");
            // The next call ends it all.
            heads.called(Framing::None);
            assert!(!heads.owes());
        }
    }

    #[test]
    fn a_head_in_pieces_is_followed() {
        let mut heads = Heads::new();
        for byte in b"GET / HTTP/1.1\r\n\r\n" {
            heads.take(&[*byte], 0);
        }
        heads.called(Framing::None);
        heads.ended();
        assert!(!heads.owes(), "it ended with a blank line");
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
