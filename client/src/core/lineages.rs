//! Whose keys members have: followed from the first one, after which a client is named, and never back.
//!
//! The server names the keys of members. It cannot make one up, because each is vouched for by the one before it; and a key that
//! was given up does not come back, nor does another one follow it, for anybody who has seen what followed. A client that
//! never saw the later keys of a member has to believe the server which of two lines is the right one.

use std::collections::BTreeMap;

use domain::{ClientId, Lineage, Member};

/// The lines of keys that were seen, of clients that changed theirs.
#[derive(Debug, Default)]
pub(crate) struct Lineages(BTreeMap<ClientId, Lineage>);

/// Why the keys of a member are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    #[error("the server named a member with a key of somebody else")]
    Foreign,
    #[error("the server named a key that a member gave up, or one that did not follow what is known")]
    Passed,
}

impl Lineages {
    /// Whether the identity key belongs to the id and vouches for the tunnel key. Notes what is new.
    pub(crate) fn check(&mut self, member: &Member) -> Result<(), Doubt> {
        let vouched = member.identity.verify_tunnel_key(&member.tunnel, &member.tunnel_signature);
        vouched.map_err(|_| Doubt::Foreign)?;
        let (lineage, known) = (member.keys(), self.0.get(&member.client));
        if known == Some(&lineage) {
            return Ok(());
        }
        if lineage.client() != member.client || lineage.newest() != member.identity || lineage.verify().is_err() {
            return Err(Doubt::Foreign);
        }
        if known.is_some_and(|known| !lineage.continues(known)) {
            return Err(Doubt::Passed);
        }
        let noted = self.0.contains_key(&member.client) || self.0.len() < MOST;
        if noted && !lineage.successions().is_empty() {
            self.0.insert(member.client, lineage);
        }
        Ok(())
    }

    pub(crate) fn save(&self) -> Vec<Lineage> {
        self.0.values().cloned().collect()
    }

    pub(crate) fn restore(&mut self, saved: Vec<Lineage>) {
        let sound = saved.into_iter().filter(|lineage| lineage.verify().is_ok()).take(MOST);
        self.0 = sound.map(|lineage| (lineage.client(), lineage)).collect();
    }
}

/// As many as a client may know members of its networks, so that a hostile server cannot fill the memory.
const MOST: usize = 4096;

#[cfg(test)]
pub(crate) mod tests {
    use domain::{IdentityKey, Signature, Succession, TUNNEL_KEY_CONTEXT};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::core::view::tests::member;

    #[test]
    fn a_member_goes_over_to_a_later_key_and_never_back() {
        let mut lineages = Lineages::default();
        let first = member(2, &[2; 32]);
        let (later, last) = (rotated(&first, 2, 20, 21), rotated(&rotated(&first, 2, 20, 21), 20, 30, 31));
        for member in [&first, &later, &later, &last] {
            assert_eq!(lineages.check(member), Ok(()));
        }
        for passed in [&first, &later, &rotated(&first, 2, 40, 41)] {
            assert_eq!(lineages.check(passed), Err(Doubt::Passed));
        }
        let mut restored = Lineages::default();
        restored.restore(lineages.save());
        assert_eq!(restored.check(&first), Err(Doubt::Passed));
        assert_eq!(restored.check(&last), Ok(()));
    }

    #[test]
    fn a_key_that_the_one_before_did_not_vouch_for_is_foreign() {
        let first = member(2, &[2; 32]);
        // The server knows the old key's public half only.
        let stolen = rotated(&first, 66, 20, 21);
        assert_eq!(Lineages::default().check(&stolen), Err(Doubt::Foreign));
        let bare = Member { lineage: None, ..rotated(&first, 2, 20, 21) };
        assert_eq!(Lineages::default().check(&bare), Err(Doubt::Foreign));
        // A line that does not end in the key that is named.
        let other = Member { lineage: rotated(&first, 2, 30, 31).lineage, ..rotated(&first, 2, 20, 21) };
        assert_eq!(Lineages::default().check(&other), Err(Doubt::Foreign));
        let tunnel = Member { tunnel: first.tunnel, ..rotated(&first, 2, 20, 21) };
        assert_eq!(Lineages::default().check(&tunnel), Err(Doubt::Foreign));
    }

    /// The same member after a change of its keys, signed with the identity made of `signer`.
    pub(crate) fn rotated(member: &Member, signer: u8, seed: u8, tunnel: u8) -> Member {
        let pair = |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let sign = |seed: u8, bytes: &[u8]| Signature::try_from(pair(seed).sign(bytes).as_ref()).unwrap();
        let identity = IdentityKey::try_from(pair(seed).public_key().as_ref()).unwrap();
        let before = member.keys();
        let statement = before.statement(&identity);
        let succession = Succession { identity, farewell: sign(signer, &statement), consent: sign(seed, &statement) };
        let first = *before.keys().next().unwrap();
        let lineage = Lineage::claimed(first, [before.successions(), &[succession]].concat());
        let tunnel = tunnel::Local::new([tunnel; 32]).public();
        Member {
            identity,
            tunnel,
            tunnel_signature: sign(seed, &[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat()),
            lineage: Some(Box::new(lineage)),
            ..member.clone()
        }
    }
}
