//! Where the frames of a server's half of a WebSocket begin and end (RFC 6455 §5.2), so that a word of
//! the edge can be said between two of them. Nothing else of them is read, kept or checked.

/// Bytes before a frame's own: two, a length of up to eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;
/// The kind of a frame that says that it is the last one.
const CLOSE: u8 = 8;

/// How far a half was read.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of the head that are there.
    n_head: usize,
    /// Bytes that follow it and are not there yet.
    left: u64,
    is_closed: bool,
}

impl Frames {
    /// More bytes went by.
    pub(super) fn saw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_closed {
            if self.left > 0 {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX);
                let count = count.min(bytes.len());
                self.left -= count as u64;
                bytes = &bytes[count..];
                continue;
            }
            self.head[self.n_head] = bytes[0];
            self.n_head += 1;
            bytes = &bytes[1..];
            if self.n_head < self.head_bytes() {
                continue;
            }
            self.is_closed = self.head[0] & 0x0F == CLOSE;
            self.left = self.payload_bytes();
            self.n_head = 0;
        }
    }

    /// Whether something may be said here: all frames that began have ended, and none was the last one.
    pub(super) fn is_between(&self) -> bool {
        self.n_head == 0 && self.left == 0 && !self.is_closed
    }

    /// Whether the server has said that it is over.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn head_bytes(&self) -> usize {
        if self.n_head < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 != 0 { 4 } else { 0 }
    }

    fn payload_bytes(&self) -> u64 {
        let long = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        match self.head[1] & 0x7F {
            126 => long(&self.head[2..4]),
            127 => long(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

/// The last frame of a server's half.
pub(super) fn close(code: u16, why: &str) -> Vec<u8> {
    let length = u8::try_from(2 + why.len()).expect("words of this module's callers are short");
    let mut frame = vec![0x80 | CLOSE, length];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(why.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match payload {
            0..=125 => frame.push(mask | u8::try_from(payload).unwrap()),
            126..=0xFFFF => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4].iter().filter(|_| masked));
        frame.resize(frame.len() + payload, 0x88);
        frame
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let mut all = Vec::new();
        let mut ends = std::collections::BTreeSet::from([0]);
        for payload in [0, 1, 125, 126, 300, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                all.extend(frame(0x02, masked, payload));
                ends.insert(all.len());
            }
        }
        for step in [1, 2, 3, 7, 1_000, all.len()] {
            let (mut frames, mut at) = (Frames::default(), 0);
            for part in all.chunks(step) {
                frames.saw(part);
                at += part.len();
                assert_eq!(frames.is_between(), ends.contains(&at), "{step} {at}");
            }
        }
    }

    #[test]
    fn after_the_last_frame_nothing_is_said() {
        let mut frames = Frames::default();
        frames.saw(&frame(0x81, false, 5));
        assert!(frames.is_between() && !frames.is_closed());
        frames.saw(&close(1000, "done"));
        assert!(!frames.is_between() && frames.is_closed());
        frames.saw(&[0x81, 0]);
        assert!(!frames.is_between());
    }

    #[test]
    fn a_length_that_is_none_ends_nothing() {
        let mut frames = Frames::default();
        frames.saw(&[0x82, 127]);
        frames.saw(&[0xFF; 8]);
        frames.saw(&[0; 1_000]);
        assert!(!frames.is_between());
    }
}
