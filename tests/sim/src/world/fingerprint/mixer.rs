//! The hash of a state.

use std::hash::Hasher;

/// Multiplies and folds, as wyhash does (<https://github.com/wangyi-fudan/wyhash>): a state has some thousand bytes,
/// and there are millions of states. It is the same on every machine; it need not resist attacks.
#[derive(Clone, Copy)]
pub(super) struct Mixer(u64);

impl Default for Mixer {
    fn default() -> Self {
        Self(0xA076_1D64_78BD_642F)
    }
}

impl Mixer {
    fn word(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0xE703_7ED1_A0B4_28DB_u128;
        // Keeps the previous value if one factor is zero.
        self.0 = (wide as u64) ^ ((wide >> 64) as u64) ^ self.0.rotate_left(29);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.word(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.word(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.word(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = *self;
        last.word(0x8EBC_6AF0_9C88_C6E3);
        last.0
    }
}
