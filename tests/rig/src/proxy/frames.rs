//! Finds the boundaries of WebSocket frames in a stream of bytes.

/// A longer HTTP head is not the beginning of a link.
const LONGEST_HEAD_BYTES: usize = 16 * 1024;

/// Finds the boundaries of WebSocket frames (RFC 6455, section 5.2) after an HTTP upgrade. Other connections have no
/// boundaries.
pub(super) struct FrameScanner {
    state: Scan,
    /// Complete frames so far.
    pub(super) frames: u64,
}

enum Scan {
    Head(Vec<u8>),
    Header(Vec<u8>),
    Payload(u64),
    NoFrames,
}

impl FrameScanner {
    pub(super) fn new() -> Self {
        Self { state: Scan::Head(Vec::new()), frames: 0 }
    }

    /// Takes bytes up to the next boundary, at least one. Returns how many.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        for (index, &byte) in bytes.iter().enumerate() {
            match &mut self.state {
                Scan::NoFrames => return bytes.len(),
                Scan::Head(head) => {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        self.state = if is_upgrade(head) { Scan::Header(Vec::new()) } else { Scan::NoFrames };
                        return index + 1;
                    }
                    if head.len() > LONGEST_HEAD_BYTES {
                        self.state = Scan::NoFrames;
                    }
                }
                Scan::Header(header) => {
                    header.push(byte);
                    match payload_bytes(header) {
                        None => {}
                        Some(0) => return self.frame_ended(index),
                        Some(length) => self.state = Scan::Payload(length),
                    }
                }
                Scan::Payload(1) => return self.frame_ended(index),
                Scan::Payload(left) => *left -= 1,
            }
        }
        bytes.len()
    }

    fn frame_ended(&mut self, index: usize) -> usize {
        self.frames += 1;
        self.state = Scan::Header(Vec::new());
        index + 1
    }

    /// The number of frames before the current position; `None` inside a frame or the HTTP head.
    pub(super) fn at_border_after(&self) -> Option<u64> {
        match &self.state {
            Scan::Header(header) if header.is_empty() => Some(self.frames),
            _ => None,
        }
    }
}

fn is_upgrade(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let refused = head.starts_with("http/") && head.split(' ').nth(1) != Some("101");
    head.contains("upgrade: websocket") && !refused
}

/// The payload's length, once the whole frame header is there.
fn payload_bytes(header: &[u8]) -> Option<u64> {
    let &[_, second, ref rest @ ..] = header else { return None };
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    let length_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if rest.len() < length_bytes + mask_bytes {
        return None;
    }
    Some(match length_bytes {
        0 => u64::from(second & 0x7f),
        _ => rest[..length_bytes].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
    })
}
