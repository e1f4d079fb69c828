//! Random bytes from the operating system. The rules never draw their own: a shell passes them in with an event.

use ring::rand::{SecureRandom as _, SystemRandom};

/// `N` random bytes, fit for keys, tokens and nonces.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// A random number from 0 to 1, both included.
pub fn random_fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}
