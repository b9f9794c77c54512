//! Packets between two clients that look for a path: what opens was sealed by the other side.

use domain::ClientId;
use wire::punch::{PunchSeal, claimed_number, is_punch};

pub(crate) fn check(bytes: &[u8]) {
    assert_eq!(is_punch(bytes), claimed_number(bytes).is_some());
    let (anna, bert) = (ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16]));
    for (own, peer) in [(anna, bert), (bert, anna)] {
        if let Ok(packet) = PunchSeal::new(&[3; 32], own, peer).open(bytes) {
            assert_eq!(PunchSeal::new(&[3; 32], peer, own).seal(&packet), *bytes);
            assert_eq!(claimed_number(bytes), Some(packet.number));
        }
    }
}
