//! The secrets of one network that this client has: the newest, that of the door, and older ones for as long as others may
//! prove those.

use std::collections::VecDeque;

use domain::SecretEpoch;
use minicbor::{Decode, Encode};
use tunnel::{NetworkSecret, NumberedSecret, SealedSecrets};
use zeroize::Zeroize as _;

/// The secrets of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    newest: NumberedSecret,
    door: NumberedSecret,
    /// Newest first.
    past: VecDeque<NumberedSecret>,
    /// The server was told that this client has this one.
    pub(crate) proved: Option<SecretEpoch>,
}

/// One of them on disk.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedSecret {
    #[n(0)]
    epoch: SecretEpoch,
    #[cbor(n(1), with = "minicbor::bytes")]
    secret: [u8; 32],
}

/// All of them on disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedSecrets {
    #[n(0)]
    newest: SavedSecret,
    #[n(1)]
    door: SavedSecret,
    #[n(2)]
    past: Vec<SavedSecret>,
    #[n(3)]
    proved: Option<SecretEpoch>,
}

impl Secrets {
    /// What the password or an invite opened.
    #[must_use]
    pub fn of_door(epoch: SecretEpoch, secret: NetworkSecret) -> Self {
        let door = NumberedSecret { epoch, secret };
        Self { newest: door.clone(), door, past: VecDeque::new(), proved: None }
    }

    /// The one that tunnels are keyed with.
    #[must_use]
    pub const fn newest(&self) -> &NumberedSecret {
        &self.newest
    }

    /// The one that invites are made of.
    #[must_use]
    pub const fn door(&self) -> &NumberedSecret {
        &self.door
    }

    /// The one before the newest.
    #[must_use]
    pub fn previous(&self) -> Option<&NumberedSecret> {
        self.past.front()
    }

    /// The secret of `epoch`, if this client has it.
    #[must_use]
    pub fn of(&self, epoch: SecretEpoch) -> Option<&NumberedSecret> {
        [&self.newest, &self.door].into_iter().chain(&self.past).find(|known| known.epoch == epoch)
    }

    /// Takes newer ones; false when they are not newer.
    pub fn renew(&mut self, secrets: SealedSecrets) -> bool {
        if secrets.newest.epoch <= self.newest.epoch || secrets.door.epoch < self.door.epoch {
            return false;
        }
        let before = std::mem::replace(&mut self.newest, secrets.newest);
        self.door = secrets.door;
        self.past.push_front(before);
        self.past.truncate(MAX_PAST);
        true
    }

    pub(crate) fn save(&self) -> SavedSecrets {
        SavedSecrets {
            newest: SavedSecret::of(&self.newest),
            door: SavedSecret::of(&self.door),
            past: self.past.iter().map(SavedSecret::of).collect(),
            proved: self.proved,
        }
    }

    pub(crate) fn restore(saved: SavedSecrets) -> Self {
        Self {
            newest: saved.newest.restored(),
            door: saved.door.restored(),
            past: saved.past.iter().map(SavedSecret::restored).take(MAX_PAST).collect(),
            proved: saved.proved,
        }
    }
}

impl SavedSecret {
    fn of(secret: &NumberedSecret) -> Self {
        Self { epoch: secret.epoch, secret: *secret.secret.as_bytes() }
    }

    fn restored(&self) -> NumberedSecret {
        NumberedSecret { epoch: self.epoch, secret: NetworkSecret::from_bytes(self.secret) }
    }
}

impl Drop for SavedSecret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for SavedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedSecret").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Renewals that a member may have been away for, and still be handed the newest by this client.
const MAX_PAST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_newer_is_taken_and_what_was_is_remembered() {
        let mut secrets = Secrets::of_door(SecretEpoch(1), secret(1));
        assert!(secrets.renew(sealed(3, 1)));
        assert!(!secrets.renew(sealed(3, 1)) && !secrets.renew(sealed(2, 1)));
        assert!(secrets.renew(sealed(4, 4)));
        assert!(!secrets.renew(sealed(5, 1)), "a door does not go back");
        let known = |epoch| secrets.of(SecretEpoch(epoch)).map(|known| known.secret.clone());
        assert_eq!([1, 2, 3, 4].map(known), [Some(secret(1)), None, Some(secret(3)), Some(secret(4))]);
        assert_eq!(secrets.previous().unwrap().epoch, SecretEpoch(3));
    }

    #[test]
    fn the_past_is_bounded_and_the_door_is_kept() {
        let mut secrets = Secrets::of_door(SecretEpoch(1), secret(1));
        for epoch in 2..100 {
            assert!(secrets.renew(sealed(epoch, 1)));
        }
        assert_eq!(secrets.past.len(), MAX_PAST);
        assert!(secrets.of(SecretEpoch(1)).is_some() && secrets.of(SecretEpoch(2)).is_none());
        let bytes = minicbor::to_vec(secrets.save()).unwrap();
        assert_eq!(Secrets::restore(minicbor::decode(&bytes).unwrap()), secrets);
        assert!(!format!("{:?} {:?}", secrets, secrets.save()).contains("99, 99"));
    }

    fn sealed(newest: u8, door: u8) -> SealedSecrets {
        let numbered = |number: u8| NumberedSecret { epoch: SecretEpoch(number.into()), secret: secret(number) };
        SealedSecrets { newest: numbered(newest), door: numbered(door) }
    }

    fn secret(number: u8) -> NetworkSecret {
        NetworkSecret::from_bytes([number; 32])
    }
}
