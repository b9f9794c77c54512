//! Relay tickets: one that opens was sealed with this key, one that was made of these bytes opens and bears no damage.

use domain::{Bandwidth, PayerId, RelayId, UnixMillis};
use wire::ticket::{LegSide, PairNonce, TICKET_SIZE, Ticket, TicketRoot};

pub(crate) fn check(bytes: &[u8]) {
    let key = TicketRoot::new([1; 32]).key(RELAY);
    let Some(sealed) = bytes.first_chunk::<TICKET_SIZE>() else { return };
    if let Ok(ticket) = key.open(sealed) {
        assert_eq!(key.seal(&ticket), *sealed);
    }

    let ticket = Ticket {
        relay: RELAY,
        pair: PairNonce(field(sealed, 20)),
        side: if sealed[1] & 1 == 0 { LegSide::A } else { LegSide::B },
        rate: Bandwidth::from_bytes_per_second(u64::from_be_bytes(field(sealed, 36))),
        payer: PayerId::from_bytes(field(sealed, 52)),
        expires: UnixMillis(u64::from_be_bytes(field(sealed, 44))),
    };
    let mut made = key.seal(&ticket);
    assert_eq!(key.open(&made), Ok(ticket));
    made[usize::from(sealed[0]) % TICKET_SIZE] ^= 1 << (sealed[2] % 8);
    assert!(key.open(&made).is_err());
}

fn field<const N: usize>(bytes: &[u8; TICKET_SIZE], at: usize) -> [u8; N] {
    std::array::from_fn(|nth| bytes[at + nth])
}

/// The relay of the golden vectors.
const RELAY: RelayId = RelayId::from_bytes([7; 16]);
