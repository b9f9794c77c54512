//! How many sessions come from a prefix: asked of every gateway, because where clients are stands nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Bus, Served};
use contract::{admin::SessionsFrom, gateway::CountSessions};
use domain::{AddressPrefix, InstanceId};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How long gateways are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers to one question that wait to be read. More of them than gateways that are known are of no use.
const ROOM: usize = 256;

/// The questions under way.
#[derive(Debug, Default)]
pub(crate) struct Counting(Mutex<BTreeMap<u64, mpsc::Sender<SessionsFrom>>>);

/// What the gateways said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) sessions: u64,
    /// Every gateway that is known answered.
    pub(crate) complete: bool,
}

impl Counting {
    /// Asks `gateways`. `question` is a number unlike others.
    pub(crate) async fn ask(
        &self,
        bus: &Bus,
        question: u64,
        from: AddressPrefix,
        gateways: BTreeSet<InstanceId>,
    ) -> Result<Counted, bus::Error> {
        let (sender, mut answers) = mpsc::channel(ROOM);
        self.questions().insert(question, sender);
        let asked = Asked { counting: self, question };
        let deadline = Instant::now() + PATIENCE;
        bus.publish(&CountSessions { question, from }).await?;
        let mut told = BTreeMap::new();
        // Who knows of no gateway yet hears whoever there is.
        let complete =
            |told: &BTreeMap<_, _>| !gateways.is_empty() && gateways.iter().all(|gateway| told.contains_key(gateway));
        while !complete(&told) {
            let Ok(Some(answer)) = timeout_at(deadline, answers.recv()).await else { break };
            told.insert(answer.instance, answer.sessions);
        }
        drop(asked);
        Ok(Counted { sessions: told.values().sum(), complete: complete(&told) })
    }

    fn answer(&self, answer: SessionsFrom) {
        if let Some(question) = self.questions().get(&answer.question) {
            // One that does not fit is one too many.
            let _ = question.try_send(answer);
        }
    }

    fn questions(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, mpsc::Sender<SessionsFrom>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is forgotten when nobody waits for it any more.
struct Asked<'a> {
    counting: &'a Counting,
    question: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.counting.questions().remove(&self.question);
    }
}

/// Hears the answers.
pub(crate) async fn listen(bus: &Bus, counting: &Arc<Counting>) -> Result<Served, bus::Error> {
    let counting = Arc::clone(counting);
    bus.subscribe(1, move |answer: SessionsFrom| {
        counting.answer(answer);
        std::future::ready(Ok::<_, Infallible>(()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use bus::memory::Hub;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_gateway_counts_once_and_a_silent_one_is_noticed() {
        let (hub, counting) = (Hub::default(), Arc::new(Counting::default()));
        let (admin, gateways) = (Bus::memory(&hub, "admin"), Bus::memory(&hub, "gateways"));
        let _heard = listen(&admin, &counting).await.unwrap();
        let telling = gateways.clone();
        let _served = gateways
            .subscribe(1, move |asked: CountSessions| {
                let bus = telling.clone();
                async move {
                    for (number, sessions) in [(1, 5), (2, 7), (1, 5)] {
                        let answer = SessionsFrom { question: asked.question, instance: instance(number), sessions };
                        bus.publish(&answer).await?;
                        bus.publish(&SessionsFrom { question: asked.question + 1, ..answer }).await?;
                    }
                    Ok::<_, bus::Error>(())
                }
            })
            .await
            .unwrap();
        let ask = |numbers: &[u8]| {
            let gateways = numbers.iter().copied().map(instance).collect();
            counting.ask(&admin, 9, "192.0.2.0/24".parse().unwrap(), gateways)
        };
        assert_eq!(ask(&[1, 2]).await.unwrap(), Counted { sessions: 12, complete: true });
        assert_eq!(ask(&[1, 2, 3]).await.unwrap(), Counted { sessions: 12, complete: false });
        assert_eq!(ask(&[]).await.unwrap(), Counted { sessions: 12, complete: false });
        assert!(counting.questions().is_empty());
    }

    fn instance(number: u8) -> InstanceId {
        InstanceId::from_bytes([number; 16])
    }
}
