//! Networks behind members: what the system is told, and what users ask for.

use domain::{NetworkName, Prefix};

use super::{Daemon, Work, requests};
use crate::{
    adapter::Routing,
    command::{Agreed, Answer, CommandError, RouteLine, RouteState, Switch},
    forwarding,
};

impl Daemon {
    /// Has the system lead there what the core says.
    pub(super) fn route(&mut self, routing: &Routing) {
        let refused = self.adapter.follow(&routing.followed);
        self.unrouted = refused.into_iter().map(|(prefix, error)| (prefix, error.to_string())).collect();
        for (prefix, error) in &self.unrouted {
            tracing::warn!(%prefix, error, "the system does not lead there");
        }
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.want(routing.into());
        }
    }

    /// Makes this machine the router that it is to be, away from this task.
    pub(super) fn forward(&mut self) {
        if let Some(making) = self.forwarding.as_mut().and_then(forwarding::Forwarding::begin) {
            self.work.spawn_blocking(move || Work::Forwarded(making.run()));
        }
    }

    pub(super) fn handle_forwarded(&mut self, made: forwarding::Made) {
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.handle_made(made);
        }
    }

    /// This machine is a router no more.
    pub(super) async fn stop_forwarding(&mut self) {
        if let Some(making) = self.forwarding.take().and_then(forwarding::Forwarding::end) {
            drop(tokio::task::spawn_blocking(move || making.run()).await);
        }
    }

    /// `buri route`. It needs no server: the user of this machine decides, and the server learns of it.
    pub(super) fn lead(&mut self, name: &NetworkName, lead: Switch, prefixes: &[Prefix], answers: requests::Answers) {
        let Some(network) = self.core.network_named(name) else {
            return requests::refuse(&answers, wire::Code::NotAMember.into());
        };
        let agreed = match lead {
            Switch::On => {
                if let Some(forwarding) = &mut self.forwarding {
                    forwarding.try_again();
                }
                self.core.agree(network, prefixes)
            }
            Switch::Off => {
                self.core.disagree(network);
                Ok(Vec::new())
            }
        };
        match agreed {
            Ok(agreed) if agreed.is_empty() && lead == Switch::On => {
                let text = "nobody has named a network behind this machine: an owner or admin does, with buri gateway";
                requests::refuse(&answers, CommandError::new(CommandError::FAILED, text));
            }
            Ok(agreed) => {
                // It holds after a restart: it is on disk before the user is told.
                self.promised.push((answers, Ok(Answer::Agreed(Agreed { agreed }))));
                self.saving = Some(Box::new(self.core.saved()));
            }
            Err(code) => requests::refuse(&answers, code.into()),
        }
    }

    /// What became of all prefixes.
    pub(super) fn routes(&self) -> Vec<RouteLine> {
        let forwarding = self.forwarding.as_ref().and_then(forwarding::Forwarding::failure);
        let shown = |line: &RouteLine| {
            let failure = if line.state != RouteState::InUse {
                None
            } else if line.gateway == self.own {
                forwarding.map(str::to_owned)
            } else {
                self.unrouted.get(&line.prefix).cloned()
            };
            match failure {
                Some(detail) => RouteLine { state: RouteState::Failed, detail: Some(detail), ..line.clone() },
                None => line.clone(),
            }
        };
        self.core.routes().iter().map(shown).collect()
    }
}
