//! Which addresses of the pool a client tries first.

use std::net::Ipv4Addr;

use domain::{AddressPool, ClientId};

/// Tries before the lowest free address is searched: with half of the pool given away, one of 256 clients needs more.
const TRIES: u64 = 8;

/// Addresses that follow from the client's id, so that concurrent first joins seldom want the same one.
pub(crate) fn candidates(client: ClientId, pool: AddressPool) -> impl Iterator<Item = Ipv4Addr> {
    let id = u128::from_be_bytes(*client.as_bytes());
    let seed = (id >> 64) as u64;
    (0..TRIES).filter_map(move |turn| {
        let seat = mixed(seed.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))) % u64::from(pool.seats());
        pool.address(u32::try_from(seat).ok()?)
    })
}

/// The finaliser of SplitMix64: every bit of the input moves half of the output.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_eight_different_seats_of_the_pool() {
        let pool = AddressPool::DEFAULT;
        let mut seen: Vec<_> = candidates(ClientId::from_bytes([3; 16]), pool).collect();
        assert!(seen.iter().all(|&address| pool.seat(address).is_some()));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn two_clients_start_at_different_seats() {
        let first = |byte| candidates(ClientId::from_bytes([byte; 16]), AddressPool::DEFAULT).next();
        assert_ne!(first(1), first(2));
    }
}
