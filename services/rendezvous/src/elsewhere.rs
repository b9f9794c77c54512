//! A second address for a process that has one only: another process, or a relay, sends the answers that are to come from
//! elsewhere. The bus carries them; what they are to show does not depend on how long that takes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::Served;
use contract::rendezvous::{ReflectFrom, ReflectorBeat, RelayBeat};
use domain::InstanceId;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use wire::probe::{MAX_ANSWER_SIZE, Sources, is_stun};

use crate::{Metrics, Seams, metrics::Probed, probe::Doors};

/// A process that was silent for this long is not asked any more.
const SILENCE: Duration = Duration::from_millis(6_500);

/// Processes that are known at once.
const MOST_OTHERS: usize = 1_024;

/// Answers on their way to the bus; further ones are lost.
const QUEUE: usize = 64;

/// Who answers from a second address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) instance: InstanceId,
    /// One or two ports of one address.
    pub(crate) corners: [Option<SocketAddr>; 2],
}

/// The answers for others to send, each with who is to send it.
pub(crate) type Requests = mpsc::Sender<(InstanceId, ReflectFrom)>;

/// Who could answer from a second address, of IPv4 and of IPv6.
#[derive(Debug)]
pub(crate) struct Others {
    own: Vec<IpAddr>,
    heard: Mutex<BTreeMap<(Kind, InstanceId), Heard>>,
    chosen: [watch::Sender<Option<Other>>; 2],
}

/// The last beat of a process.
#[derive(Debug)]
struct Heard {
    endpoints: Vec<SocketAddr>,
    at: Instant,
}

/// Other processes of this role have two ports and come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Rendezvous,
    Relay,
}

impl Others {
    /// Nobody yet; `own` are the public addresses of this process.
    pub(crate) fn new(own: Vec<IpAddr>) -> Self {
        Self { own, heard: Mutex::default(), chosen: [watch::Sender::default(), watch::Sender::default()] }
    }

    /// Tells who answers from a second address of the family.
    pub(crate) fn of_family(&self, v4: bool) -> watch::Receiver<Option<Other>> {
        self.chosen[usize::from(!v4)].subscribe()
    }

    fn hear(&self, kind: Kind, instance: InstanceId, endpoints: Vec<SocketAddr>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, heard| heard.at.elapsed() < SILENCE);
        if heard.len() < MOST_OTHERS {
            heard.insert((kind, instance), Heard { endpoints, at: Instant::now() });
        }
        for (chosen, v4) in self.chosen.iter().zip([true, false]) {
            let other = heard.iter().find_map(|(&(_, instance), Heard { endpoints, .. })| {
                let foreign = |at: &&SocketAddr| at.is_ipv4() == v4 && !self.own.contains(&at.ip());
                let first = endpoints.iter().find(foreign)?;
                let mut beside = endpoints.iter().copied().filter(|at| at.ip() == first.ip());
                Some(Other { instance, corners: [beside.next(), beside.next()] })
            });
            chosen.send_if_modified(|known| std::mem::replace(known, other) != other);
        }
    }
}

/// A queue for answers that others send, and the task that hands them to the bus.
pub(crate) fn requests(seams: &Seams) -> (Requests, impl Future<Output = ()> + Send + 'static) {
    let (sender, mut queue) = mpsc::channel::<(InstanceId, ReflectFrom)>(QUEUE);
    let (bus, metrics) = (seams.bus.clone(), Arc::clone(&seams.metrics));
    let handing_over = async move {
        while let Some((instance, request)) = queue.recv().await {
            let handed = bus.publish_to(instance, &request).await;
            metrics.probe(if handed.is_ok() { Probed::Answered } else { Probed::Lost });
        }
    };
    (sender, handing_over)
}

/// Learns of others and sends for them, until the guards are stopped.
pub(crate) async fn serve(
    seams: &Seams,
    others: Others,
    doors: Doors,
    sources: Sources,
) -> Result<Vec<Served>, bus::Error> {
    let others = Arc::new(others);
    let relays = Arc::clone(&others);
    let beats = move |beat: ReflectorBeat| {
        others.hear(Kind::Rendezvous, beat.instance, beat.endpoints);
        std::future::ready(Ok::<(), Infallible>(()))
    };
    let relay_beats = move |beat: RelayBeat| {
        relays.hear(Kind::Relay, InstanceId::from_bytes(*beat.relay.as_bytes()), beat.endpoints);
        std::future::ready(Ok::<(), Infallible>(()))
    };
    let (sources, metrics) = (Mutex::new(sources), Arc::clone(&seams.metrics));
    let requests = move |request: ReflectFrom| {
        send_for_another(&doors, &sources, &metrics, &request);
        std::future::ready(Ok::<(), Infallible>(()))
    };
    Ok(vec![
        seams.bus.subscribe::<ReflectFrom, _, _, _>(1, requests).await?,
        seams.bus.subscribe::<RelayBeat, _, _, _>(1, relay_beats).await?,
        seams.bus.subscribe::<ReflectorBeat, _, _, _>(1, beats).await?,
    ])
}

/// The process that was asked has seen to its budgets; a broken one must not make this one a weapon either.
fn send_for_another(doors: &Doors, sources: &Mutex<Sources>, metrics: &Metrics, request: &ReflectFrom) {
    let ReflectFrom { from, to, answer } = request;
    if !is_stun(answer) || answer.len() > MAX_ANSWER_SIZE {
        return metrics.probe(Probed::Ignored);
    }
    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    if !sources.take(Instant::now().into_std(), to.ip()) {
        return metrics.probe(Probed::Limited);
    }
    if !doors.send(*from, *to, answer) {
        metrics.probe(Probed::Lost);
    }
}
