//! The keyed hash that places clients: SipHash-1-3 of the wire's bytes (Aumasson and Bernstein, 2012).
//!
//! A cheaper multiplicative mix would save about 15 ns for each new connection, but a client who learns its structure can
//! choose addresses or ports that fall into one shard. SipHash's key keeps that from anyone who does not know the seed.

use crate::{
    ids::Be16,
    layout::{Address, KEY_SOURCE_IP},
    weight::KeyHash,
};

/// The hash of a client's key: its address alone, or its address and port. `key` is the service's
/// [`crate::layout::ServiceEntry::key`]; VIP, port and protocol need no place in it, for every service has a seed of
/// its own.
#[inline(always)]
pub const fn key_hash(seed: [u64; 2], key: u8, client: Address, client_port: Be16) -> KeyHash {
    let port = if key == KEY_SOURCE_IP { 0 } else { client_port.to_host() as u64 };
    let tail = port | (key as u64) << 16;
    let [a, b, c, d] = client.words();
    // Words are taken as the wire's bytes, least significant first, so that every host of a fleet hashes alike.
    let mut v = start(seed);
    if client.is_v4() {
        // Seven bytes: one round and the end, where an IPv6 client takes three.
        v = absorb(v, 7 << 56 | tail << 32 | d.to_le() as u64);
    } else {
        v = absorb(v, a.to_le() as u64 | (b.to_le() as u64) << 32);
        v = absorb(v, c.to_le() as u64 | (d.to_le() as u64) << 32);
        v = absorb(v, 19 << 56 | tail);
    }
    v[2] ^= 0xff;
    v = round(round(round(v)));
    KeyHash(v[0] ^ v[1] ^ v[2] ^ v[3])
}

/// The group that a client's address falls into, for the dispersion of errors. Not the hash that places clients: groups
/// must not lie on one side of a weight. The same on every host of a fleet.
#[inline(always)]
pub const fn client_group(seed: [u64; 2], client: Address) -> u8 {
    let [a, b, c, d] = client.words();
    let head = (a.to_le() as u64 | (b.to_le() as u64) << 32) ^ seed[0];
    let tail = (c.to_le() as u64 | (d.to_le() as u64) << 32) ^ seed[1];
    let mut hash = head.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 32 ^ tail).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 56) as u8
}

#[inline(always)]
const fn start(seed: [u64; 2]) -> [u64; 4] {
    [
        seed[0] ^ 0x736f_6d65_7073_6575,
        seed[1] ^ 0x646f_7261_6e64_6f6d,
        seed[0] ^ 0x6c79_6765_6e65_7261,
        seed[1] ^ 0x7465_6462_7974_6573,
    ]
}

#[inline(always)]
const fn absorb(mut v: [u64; 4], word: u64) -> [u64; 4] {
    v[3] ^= word;
    v = round(v);
    v[0] ^= word;
    v
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use siphasher::sip::SipHasher13;

    use super::*;
    use crate::layout::KEY_CONNECTION;

    const SEED: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn the_hash_is_siphash_1_3_of_the_wire_bytes() {
        for (text, key, port) in [("203.0.113.7", KEY_SOURCE_IP, 0), ("2001:db8::7", KEY_CONNECTION, 40_000u16)] {
            let address: IpAddr = text.parse().expect("an address");
            let mut message = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            message.extend(port.to_le_bytes());
            message.push(key);
            let expected = SipHasher13::new_with_keys(SEED[0], SEED[1]).hash(&message);
            assert_eq!(key_hash(SEED, key, address.into(), Be16::new(port)), KeyHash(expected), "{text}");
        }
    }

    #[test]
    fn a_source_ip_key_ignores_the_port() {
        let client = Address::from(IpAddr::from([198, 51, 100, 7]));
        let hash = |key, port| key_hash(SEED, key, client, Be16::new(port));
        assert_eq!(hash(KEY_SOURCE_IP, 1), hash(KEY_SOURCE_IP, 2));
        assert_ne!(hash(KEY_CONNECTION, 1), hash(KEY_CONNECTION, 2));
    }

    /// χ² as below; and within each half of a weight of 50 %.
    #[test]
    fn neighbouring_clients_spread_evenly_over_the_groups_on_both_sides_of_a_weight() {
        let mut counts = [[0u32; 256]; 2];
        for client in 0..131_072u32 {
            let address = Address::from(IpAddr::from((0x0a00_0000 + client).to_be_bytes()));
            let hash = key_hash(SEED, KEY_SOURCE_IP, address, Be16::new(0));
            let version = crate::weight::Weight::from_hundredths(5000).expect("half").threshold().version(hash);
            counts[version as usize][usize::from(client_group(SEED, address))] += 1;
        }
        for side in counts {
            let mean = f64::from(side.iter().sum::<u32>()) / 256.0;
            let chi_square: f64 = side.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
            assert!(chi_square < 330.5, "{chi_square}");
        }
    }

    /// χ² of neighbouring addresses over the shards: the 99.9 % quantile for 255 degrees of freedom is 330.5.
    #[test]
    fn neighbouring_clients_spread_evenly_over_the_shards() {
        let mut counts = [0u32; 256];
        for client in 0..65_536u32 {
            let address = Address::from(IpAddr::from((0x0a00_0000 + client).to_be_bytes()));
            counts[key_hash(SEED, KEY_SOURCE_IP, address, Be16::new(0)).shard(256).0 as usize] += 1;
        }
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0).sum();
        assert!(chi_square < 330.5, "{chi_square}");
    }
}
