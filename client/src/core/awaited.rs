//! Networks that this client asked to be let into, and what opens each of them once it is.
//!
//! The key comes from the password, and the sealed secret from the server only when somebody has approved. When the network
//! shows up among the client's own, or at each login, the server is asked; its refusal says whether to wait on.

use std::time::Instant;

use domain::{NetworkId, NetworkName, SecretEpoch};
use minicbor::{Decode, Encode};
use tunnel::NetworkSecret;
use wire::Code;
use zeroize::Zeroize as _;

use super::{Core, Output};
use crate::password::{self, ExportKey};

/// One network that has not let this client in yet.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Awaited {
    #[n(0)]
    pub(crate) network: NetworkId,
    #[n(1)]
    pub(crate) name: NetworkName,
    #[cbor(n(2), with = "minicbor::bytes")]
    key: [u8; 32],
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaited").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Core {
    /// This client asked to be let in; `key` opens the network's secret.
    pub fn handle_awaiting(&mut self, network: NetworkId, name: NetworkName, key: &ExportKey) {
        self.awaited.retain(|awaited| awaited.network != network);
        if self.awaited.len() == MAX_AWAITED {
            self.awaited.remove(0);
        }
        self.awaited.push(Awaited { network, name, key: *key.as_bytes() });
        self.changed = true;
    }

    /// The networks that this client waits for.
    pub fn awaited(&self) -> impl Iterator<Item = (NetworkId, &NetworkName)> {
        self.awaited.iter().map(|awaited| (awaited.network, &awaited.name))
    }

    /// The answer to [`Output::WantKeys`]: the sealed secret.
    pub fn handle_keys(&mut self, now: Instant, network: NetworkId, door: SecretEpoch, sealed: &[u8]) {
        let Some(place) = self.awaited.iter().position(|awaited| awaited.network == network) else { return };
        let awaited = self.awaited.remove(place);
        self.changed = true;
        match password::NetworkSecret::open(sealed, &ExportKey::from_bytes(awaited.key)) {
            Ok(secret) => {
                self.view.learn(network, door, NetworkSecret::from_bytes(*secret.as_bytes()));
                self.reconcile(now);
                self.tend_secrets(now);
            }
            Err(error) => tracing::warn!(%error, "a network let this client in, and cannot be opened: join it again"),
        }
    }

    /// The refusal of [`Output::WantKeys`].
    pub fn handle_no_keys(&mut self, network: NetworkId, code: Option<Code>) {
        if code == Some(Code::NotAMember) {
            self.forget_awaited(network);
        }
    }

    /// Nobody will let this client in any more.
    pub(super) fn forget_awaited(&mut self, network: NetworkId) {
        let before = self.awaited.len();
        self.awaited.retain(|awaited| awaited.network != network);
        self.changed |= self.awaited.len() != before;
    }

    /// Asks for the keys of what became known, or of everything that is waited for.
    pub(super) fn want_keys(&mut self, of: Option<NetworkId>) {
        let wanted = self.awaited.iter().map(|awaited| awaited.network).filter(|id| of.is_none_or(|of| of == *id));
        self.outputs.extend(wanted.map(Output::WantKeys));
    }
}

/// Networks waited for; the oldest is forgotten for one more.
const MAX_AWAITED: usize = 64;

#[cfg(test)]
mod tests {
    use domain::Revision;

    use super::*;
    use crate::{
        core::view::tests::{NETWORK, change, member},
        settings::Choices,
    };

    #[test]
    fn what_is_waited_for_is_opened_once_it_is_there() {
        let (now, mut core) = core();
        core.handle_awaiting(NETWORK, "lan".parse().unwrap(), &KEY);
        core.handle_frame(now, wire::control::ServerFrame::Change(change(0, 1, vec![member(2, &[2; 32])])));
        assert!(wants(&mut core));

        let secret = password::NetworkSecret::from_bytes([7; 32]);
        core.handle_keys(now, NETWORK, SecretEpoch::FIRST, &secret.seal(&KEY).unwrap());
        assert_eq!(core.door(NETWORK), Some((SecretEpoch::FIRST, secret)));
        assert_eq!(core.awaited().count(), 0);
        assert_eq!(core.known()[0].revision, Revision(1));
    }

    #[test]
    fn whoever_is_refused_waits_no_more_and_a_pause_changes_nothing() {
        let (now, mut core) = core();
        core.handle_awaiting(NETWORK, "lan".parse().unwrap(), &KEY);
        for code in [Some(Code::AwaitingApproval), Some(Code::Unavailable), None] {
            core.handle_no_keys(NETWORK, code);
            assert_eq!(core.awaited().count(), 1);
        }
        core.handle_no_keys(NETWORK, Some(Code::NotAMember));
        assert_eq!(core.awaited().count(), 0);

        core.handle_awaiting(NETWORK, "lan".parse().unwrap(), &KEY);
        let left = domain::NetworkChange { left: true, ..change(1, 2, Vec::new()) };
        core.handle_frame(now, wire::control::ServerFrame::Change(left));
        assert_eq!(core.awaited().count(), 0);
    }

    #[test]
    fn it_is_waited_for_over_a_restart_and_for_a_bounded_number() {
        let (now, mut core) = core();
        for number in 0..=u8::try_from(MAX_AWAITED).unwrap() {
            core.handle_awaiting(NetworkId::from_bytes([number; 16]), "lan".parse().unwrap(), &KEY);
        }
        assert_eq!(core.awaited().count(), MAX_AWAITED);
        assert_eq!(core.awaited().next().unwrap().0, NetworkId::from_bytes([1; 16]), "the oldest is forgotten");

        let saved = super::super::Saved::decode(&core.saved().encode()).unwrap();
        let (_, mut restarted) = self::core();
        restarted.restore(now, saved);
        assert_eq!(restarted.awaited().count(), MAX_AWAITED);
        let addresses = member(1, &[1; 32]).addresses;
        restarted.handle_frame(now, wire::control::ServerFrame::Synced(addresses, Vec::new()));
        assert!(wants(&mut restarted));
    }

    fn core() -> (Instant, Core) {
        let (now, own) = (Instant::now(), member(1, &[1; 32]));
        let mut core = Core::new(
            now,
            own.client,
            [1; 32],
            Choices { path: crate::settings::PathPolicy::Any, port_mapping: false, loopback: false },
            [9; 32],
        );
        core.view.addresses = Some(own.addresses);
        (now, core)
    }

    fn wants(core: &mut Core) -> bool {
        std::iter::from_fn(|| core.poll_output()).any(|output| matches!(output, Output::WantKeys(_)))
    }

    const KEY: ExportKey = ExportKey::from_bytes([3; 32]);
}
