//! Keyed hashing. Every table whose keys a peer can choose is keyed with a random, seeded key.

use core::hash::{BuildHasher, Hasher};

/// A hash map with our keyed hasher.
pub type KeyedMap<K, V> = hashbrown::HashMap<K, V, KeyedState>;
/// A hash set with our keyed hasher.
pub type KeyedSet<K> = hashbrown::HashSet<K, KeyedState>;

/// The key of one table.
#[derive(Clone, Copy, Debug)]
pub struct KeyedState([u64; 2]);

impl KeyedState {
    /// A state with a fresh key from `rng`.
    pub fn new(rng: &mut crate::rng::Rng) -> Self {
        KeyedState([rng.next_u64(), rng.next_u64() | 1])
    }
}

impl BuildHasher for KeyedState {
    type Hasher = KeyedHasher;
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.0[0], key: self.0[1] }
    }
}

/// Folded 64×64→128 multiplication with a secret key on both sides (the construction of wyhash).
#[derive(Clone, Copy, Debug)]
pub struct KeyedHasher {
    state: u64,
    key: u64,
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}

impl KeyedHasher {
    #[inline]
    fn mix(&mut self, v: u64) {
        self.state = fold(self.state ^ v, 0x9E37_79B9_7F4A_7C15 ^ self.key);
        self.key = self.key.rotate_left(23);
    }
}

impl Hasher for KeyedHasher {
    #[inline]
    fn finish(&self) -> u64 {
        fold(self.state, self.key ^ 0xA076_1D64_78BD_642F)
    }
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut c = bytes.chunks_exact(8);
        for w in &mut c {
            self.mix(u64::from_le_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]));
        }
        let rest = c.remainder();
        if !rest.is_empty() {
            let mut last = [0u8; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
        }
    }
    #[inline]
    fn write_u8(&mut self, v: u8) {
        self.mix(u64::from(v));
    }
    #[inline]
    fn write_u16(&mut self, v: u16) {
        self.mix(u64::from(v));
    }
    #[inline]
    fn write_u32(&mut self, v: u32) {
        self.mix(u64::from(v));
    }
    #[inline]
    fn write_u64(&mut self, v: u64) {
        self.mix(v);
    }
    #[inline]
    fn write_u128(&mut self, v: u128) {
        self.mix(v as u64);
        self.mix((v >> 64) as u64);
    }
    #[inline]
    fn write_usize(&mut self, v: usize) {
        self.mix(v as u64);
    }
}

/// SipHash-2-4 (Aumasson and Bernstein) of up to `data.len()` words, for initial sequence numbers, ports
/// and cookies, where the output is seen by peers.
#[must_use]
pub fn siphash24(key: [u64; 2], data: &[u64]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
    for &m in data {
        v[3] ^= m;
        round(&mut v);
        round(&mut v);
        v[0] ^= m;
    }
    let last = ((data.len() as u64) << 3) << 56;
    v[3] ^= last;
    round(&mut v);
    round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_reference_vector() {
        // SipHash paper, appendix A: key 00..0f; message 00..07 (8 bytes) from the reference vectors.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash24(key, &[0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn different_keys_give_different_hashes() {
        let mut rng = crate::rng::Rng::new(1);
        let (a, b) = (KeyedState::new(&mut rng), KeyedState::new(&mut rng));
        assert_ne!(a.hash_one(7u32), b.hash_one(7u32));
        assert_eq!(a.hash_one(7u32), a.hash_one(7u32));
    }
}
