//! Failed negotiations in plain words, each with its remedy.

use domain::NatClass;

use crate::plan::Outlook;

/// Why a negotiation ended without a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NotReady,
    Unmeasured,
    Crowded,
    NoContact,
}

impl Failure {
    /// One sentence for a person, with the remedy.
    pub(super) fn hint(self, outlook: Outlook, classes: [NatClass; 2], attempt: u8) -> String {
        use NatClass::{Easy, EasyOpen, Random, Sequential};
        match (self, outlook, classes) {
            (Self::NotReady, ..) => "a client did not get ready in time: relayed; it is tried again".to_owned(),
            (Self::Unmeasured, ..) => {
                "a client reached no reflector just before the attempt: relayed; allow UDP to the service's ports 3478 \
                 and 3479"
                    .to_owned()
            }
            (Self::Crowded, ..) => "too many attempts behind one public address: relayed; it is tried later".to_owned(),
            (Self::NoContact, Outlook::Doubtful, [Sequential | Random, Sequential | Random]) => {
                "both routers take a new port for every destination: relayed; a port mapping on either side would fix it"
                    .to_owned()
            }
            (Self::NoContact, Outlook::Doubtful, [Easy | EasyOpen, _] | [_, Easy | EasyOpen]) => {
                "one router takes a new port for every destination and the other admits only known ports: relayed; a \
                 port mapping on either side would fix it"
                    .to_owned()
            }
            (Self::NoContact, ..) => format!(
                "both routers should allow a direct path, but no packet came through: relayed after attempt {attempt}; \
                 look for a firewall that drops UDP between hosts"
            ),
        }
    }
}
