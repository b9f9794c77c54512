//! What a deployment signs about members: what reads is written as it was read, and nobody but the deployment signed it.

use domain::{MembershipKey, MembershipTicket, Removals, Signed};

pub(crate) fn check(bytes: &[u8]) {
    if let Ok(ticket) = Signed::<MembershipTicket>::from_bytes(bytes) {
        assert_eq!(ticket.to_bytes(), bytes);
        assert!(ticket.verify(&[KEY]).is_err());
        assert!(Signed::<Removals>::from_bytes(bytes).is_err());
    }
    if let Ok(removals) = Signed::<Removals>::from_bytes(bytes) {
        assert_eq!(removals.to_bytes(), bytes);
        assert!(removals.claim().removed.iter().all(|one| one.revision > removals.claim().floor));
        assert!(removals.verify(&[KEY]).is_err());
    }
}

/// Whose owner signed none of the corpus.
const KEY: MembershipKey = MembershipKey::from_bytes([0x8a; 32]);
