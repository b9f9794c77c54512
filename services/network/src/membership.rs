//! What members show one another to prove that they are: the keys, and what is signed with them.

use std::{io, path::Path};

use contract::{
    membership::{MembershipSigner, SeedsError},
    network::{Membership, MembershipProof, Refusal},
};

use store::Proven;

use crate::{Role, internal, now};

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    #[error("the file is broken")]
    Seeds(#[from] SeedsError),
}

/// The keys in a file.
pub(crate) fn read(path: &Path) -> Result<MembershipSigner, KeysError> {
    Ok(MembershipSigner::from_seeds(&std::fs::read(path)?)?)
}

impl Role {
    pub(crate) async fn membership(&self, call: Membership) -> Result<MembershipProof, Refusal> {
        let Membership { client, network } = call;
        let proven = self.seams.networks.membership(network, client, now()).await.map_err(|error| internal(&error))?;
        let removals = match proven {
            Proven::Member(removals) => removals,
            Proven::Unseated => return Err(Refusal::NoSeat),
            Proven::Stranger => return Err(Refusal::NotAMember),
        };
        self.seams.metrics.membership_tickets.inc();
        let ticket = self.signer.ticket(client, &removals);
        Ok(MembershipProof { ticket, removals: self.signer.removals(removals) })
    }
}
