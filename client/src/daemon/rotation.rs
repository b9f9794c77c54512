//! Other keys for this machine: the server takes them first, then the disk, then the tunnels.
//!
//! When the answer is lost, the next session tells: it is refused under the keys before if the server has the next ones (see
//! `control`), and otherwise the same keys are offered again.

use domain::ClientId;
use tokio::{sync::mpsc, time::Instant};
use wire::Code;

use super::{
    Daemon, now,
    requests::{self, Answers},
};
use crate::{
    command::{Answer, CommandError, Rotated},
    home::{HomeError, Identity},
};

impl Daemon {
    pub(super) fn rotate_key(&mut self, at: Instant, answers: Answers) {
        if !self.needs_server(&answers) {
            return;
        }
        match self.home.next_rotation() {
            Ok(rotation) => {
                let request = self.requests.rotate_key(at, rotation, answers);
                self.ask(Some(request));
            }
            Err(HomeError::KeyLimit) => requests::refuse(&answers, Code::KeyLimit.into()),
            Err(error) => requests::refuse(&answers, CommandError::new(CommandError::FAILED, error.to_string())),
        }
    }

    /// A change that was begun and not answered is asked for again; no user waits.
    pub(super) fn go_on_rotating(&mut self) {
        if self.home.has_next_keys() {
            let (nobody, _) = mpsc::channel(1);
            self.rotate_key(Instant::now(), nobody);
        }
    }

    /// The server has the next keys.
    pub(super) fn key_rotated(&mut self, waiting: Vec<Answers>) {
        let taken = self.home.take_next_keys().and_then(|()| self.home.identity());
        match &taken {
            Ok(keys) => {
                self.core.handle_own_keys(now(), *keys.tunnel());
                tracing::info!("this machine has other keys");
            }
            Err(error) => tracing::error!(%error, "the server has the next keys, but they cannot be taken over"),
        }
        for answers in waiting {
            match &taken {
                Ok(keys) => drop(answers.try_send(Ok(Answer::Rotated(shown(self.own, keys))))),
                Err(error) => requests::refuse(&answers, CommandError::new(CommandError::FAILED, error.to_string())),
            }
        }
    }

    /// The server did not take the next keys. Those that it never will are forgotten.
    pub(super) fn keep_keys(&mut self, code: Option<Code>) {
        if matches!(code, Some(Code::KeyTaken | Code::KeyLimit | Code::SignatureInvalid))
            && let Err(error) = self.home.drop_next_keys()
        {
            tracing::warn!(%error, "keys that nobody wants stay on disk");
        }
    }
}

fn shown(id: ClientId, keys: &Identity) -> Rotated {
    let key = keys.public().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Rotated { id, key, before: keys.lineage().successions().len() }
}
