//! The members of one network, for those who govern it.

use std::net::IpAddr;

use domain::{ClientId, NetworkId, SecretEpoch};

use super::{Core, NoPeer};
use crate::{command::MemberLine, password::NetworkSecret};

impl Core {
    /// Everybody in `network`, this client first.
    #[must_use]
    pub fn members(&self, network: NetworkId) -> Vec<MemberLine> {
        let Some(about) = self.view.networks().get(&network) else { return Vec::new() };
        let own = MemberLine {
            id: self.own,
            nick: self.view.nick.clone(),
            role: about.role,
            hub: about.hub,
            routes: about.routes.clone(),
            seated: !about.unseated,
            kept: about.kept,
            own: true,
        };
        let line = |member: &domain::Member| MemberLine {
            id: member.client,
            nick: member.nick.clone(),
            role: member.role,
            hub: member.hub,
            routes: member.routes.clone(),
            seated: !member.unseated,
            kept: member.kept,
            own: false,
        };
        std::iter::once(own).chain(about.members().map(line)).collect()
    }

    /// Those of `network` that this client has tunnels with.
    #[must_use]
    pub fn met_in(&self, network: NetworkId) -> Vec<ClientId> {
        let met = self.peers.iter().filter(|(_, peer)| peer.about.networks.contains(&network));
        met.map(|(id, _)| *id).collect()
    }

    /// Whether `word` names somebody in a network where one of the two has no seat.
    pub(super) fn is_parted(&self, word: &str) -> bool {
        self.view.networks().iter().any(|(&network, about)| {
            let named = |member: &domain::Member| {
                member.client.to_string() == word || self.resolve_in(network, word) == Ok(member.client)
            };
            about.members().any(|member| (about.unseated || member.unseated) && named(member))
        })
    }

    /// Which secret of `network` is the newest, as far as the server said.
    #[must_use]
    pub fn newest_epoch(&self, network: NetworkId) -> Option<SecretEpoch> {
        self.view.networks().get(&network).map(|about| about.secret.epoch)
    }

    /// The secret that the password of `network` opens, and which it is; if it is known.
    #[must_use]
    pub fn door(&self, network: NetworkId) -> Option<(SecretEpoch, NetworkSecret)> {
        let door = self.view.secrets(network)?.door();
        Some((door.epoch, NetworkSecret::from_bytes(*door.secret.as_bytes())))
    }

    /// The member of `network` that `word` names by an address or a nickname; this client by its address only.
    ///
    /// # Errors
    /// [`NoPeer`].
    pub fn resolve_in(&self, network: NetworkId, word: &str) -> Result<ClientId, NoPeer> {
        let about = self.view.networks().get(&network).ok_or(NoPeer::Unknown)?;
        let address = word.parse::<IpAddr>().ok();
        let is_own =
            |own: domain::VirtualAddresses| address.is_some_and(|address| tunnel::inner::belongs(&own, address));
        if self.view.addresses.is_some_and(is_own) {
            return Ok(self.own);
        }
        let mut named = about.members().filter(|member| {
            let at = member.addresses;
            address.is_some_and(|address| at.v4.map(IpAddr::from) == Some(address) || IpAddr::from(at.v6) == address)
                || member.nick.as_ref().is_some_and(|nick| nick.as_str() == word)
        });
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one.client),
            (Some(_), Some(_)) => Err(NoPeer::Ambiguous),
            (None, _) => Err(NoPeer::Unknown),
        }
    }
}
