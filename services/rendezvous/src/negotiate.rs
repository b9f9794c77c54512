//! The shell around `traversal::schedule`: presence, the bus and the clock for it.
//!
//! One actor owns the schedule. Events are checked and completed (who is where, what was tried) before they reach its
//! inbox; what it wants done runs in tasks of their own, whose results come back to it. So a slow presence or broker
//! delays one negotiation and not all.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bus::Bus;
use contract::{
    admin::Happened,
    gateway::{Notice, Push, Target},
    rendezvous::{PairWanted, PairsWanted, PunchSaid, PunchWord, Wanted as Reason},
};
use domain::{
    ClientId, Event, EventKind, InstanceId, PairOutcome, PairRecord, PunchId, PunchReady, PunchReport, RelayChoice,
    RelayId, RelayLoss, SessionTag, Strategy, UnixMillis,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use presence::{Presence, Seat};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use traversal::schedule::{Action, Claim, LeaseKey, Limits, Party, Ready, Schedule, Settled, Wanted};
use wire::probe::ObservationKey;

use crate::{
    Clock, Config, Error, Metrics, Seams,
    metrics::{Offered, Presented},
    relays::{Relays, Wish},
};

/// Words and wishes that wait for the actor. When full their handlers wait, and so does the bus.
const INBOX: usize = 1_024;
/// Things being done. At this number the actor takes no new input until one is finished.
const MOST_TASKS: usize = 512;
/// Pairs looked up at once for one event.
const LOOKUPS: usize = 16;
/// Clients in one question to presence.
const CLIENTS_PER_QUESTION: usize = 256;
/// What a client may present in a negotiation.
const MOST_OBSERVATIONS: usize = 256;
const MOST_LOCAL: usize = 16;
const MOST_OTHERS: usize = 4;
/// A relay that does not answer one of a pair is not offered to it for this long, unless there is no other.
const AVOIDED: Duration = Duration::from_secs(60);
/// Relays that a pair avoids.
const MOST_LOSSES: usize = 4;
/// Both of a pair ask for another relay when they lose theirs: what came of the first question holds for the second.
const SAME_WISH: Duration = Duration::from_millis(500);
/// A slower control connection is not waited for.
const MAX_RTT: Duration = Duration::from_secs(2);

/// Takes events for the actor.
#[derive(Debug)]
pub(crate) struct Negotiator {
    inbox: mpsc::Sender<Input>,
    outside: Outside,
    relays: Arc<Relays>,
    observations: ObservationKey,
}

/// Owns the schedule.
pub(crate) struct Actor {
    inbox: mpsc::Receiver<Input>,
    schedule: Schedule,
    outside: Outside,
}

/// What is reached through the seams.
#[derive(Clone, Debug)]
struct Outside {
    bus: Bus,
    presence: Presence,
    metrics: Arc<Metrics>,
    clock: Clock,
    instance: InstanceId,
    record_lifetime: Duration,
}

/// What the schedule is told.
#[derive(Debug)]
enum Input {
    Wanted(Box<Wanted>),
    Lease { number: u64, key: LeaseKey, claim: Claim },
    Ready { from: ClientId, number: u64, ready: Ready },
    Report { from: ClientId, report: PunchReport },
    Gone { client: ClientId, number: u64 },
}

/// Why an event is to be delivered again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NegotiateError {
    #[error("presence failed")]
    Presence(#[from] presence::Error),
    #[error("this process is leaving")]
    Leaving,
}

impl Negotiator {
    pub(crate) fn new(
        config: &Config,
        seams: &Seams,
        relays: Arc<Relays>,
        observations: ObservationKey,
    ) -> Result<(Arc<Self>, Actor), Error> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| Error::Random)?;
        let limits = Limits {
            negotiations: config.negotiations,
            per_client: config.negotiations_per_client,
            strategies: config.traversal.strategies.allowed(),
            serialise: config.traversal.strategies.serialise,
            ..Limits::default()
        };
        let (sender, inbox) = mpsc::channel(INBOX);
        let Seams { bus, presence, instance, metrics, clock } = seams.clone();
        let outside = Outside { bus, presence, metrics, clock, instance, record_lifetime: config.record_lifetime };
        let schedule = Schedule::new(instance, limits, seed);
        let actor = Actor { inbox, schedule, outside: outside.clone() };
        Ok((Arc::new(Self { inbox: sender, outside, relays, observations }), actor))
    }

    /// Gives each pair that is online a relay, if it needs one, and a negotiation.
    pub(crate) async fn wanted(&self, event: PairsWanted) -> Result<(), NegotiateError> {
        let clients: BTreeSet<_> = event.pairs.iter().flat_map(|pair| [pair.a, pair.b]).collect();
        let clients: Vec<_> = clients.into_iter().collect();
        let mut seats = Vec::with_capacity(clients.len());
        for clients in clients.chunks(CLIENTS_PER_QUESTION) {
            seats.extend(self.outside.presence.find(clients).await?);
        }
        let seat = |client: ClientId| seats.iter().flatten().find(|seat| seat.client == client).copied();
        let online = event.pairs.iter().filter(|pair| pair.a != pair.b);
        let online: Vec<_> = online.filter_map(|pair| Some((*pair, [seat(pair.a)?, seat(pair.b)?]))).collect();
        let pairs = stream::iter(online).map(|(pair, seats)| self.pair_wanted(pair, seats));
        pairs.buffer_unordered(LOOKUPS).try_collect().await
    }

    /// Checks what a client says and hands it to the negotiation.
    pub(crate) async fn word(&self, word: PunchWord) -> Result<(), NegotiateError> {
        let PunchWord { from, tag, control_rtt_us, control_jitter_us, said } = word;
        let trip = [Some(control_rtt_us).filter(|rtt| *rtt > 0), control_jitter_us];
        let trip = trip.map(|micros| Some(Duration::from_micros(micros?).min(MAX_RTT)));
        let input = match said {
            PunchSaid::Ready(ready) if ready.punch.leader == self.outside.instance => {
                let number = ready.punch.number;
                Input::Ready { from, number, ready: self.checked(tag, trip, ready) }
            }
            PunchSaid::Report(report) if report.punch.leader == self.outside.instance => Input::Report { from, report },
            // For a process that was here before.
            PunchSaid::Ready(_) | PunchSaid::Report(_) => return Ok(()),
        };
        self.inbox.send(input).await.map_err(|_| NegotiateError::Leaving)
    }

    async fn pair_wanted(&self, pair: PairWanted, seats: [Seat; 2]) -> Result<(), NegotiateError> {
        let mut record = self.outside.presence.recall(pair.a, pair.b).await?;
        if matches!(pair.reason, Reason::Online | Reason::Demanded | Reason::Relay) {
            record = self.offer_relay(&pair, &seats, record).await?;
        }
        if pair.reason == Reason::Relay {
            return Ok(());
        }
        let demanded = pair.reason == Reason::Demanded;
        let wanted = Wanted { parties: seats.map(party), demanded, record };
        self.inbox.send(Input::Wanted(Box::new(wanted))).await.map_err(|_| NegotiateError::Leaving)
    }

    /// Sends both a ticket. Returns the record, which says where.
    async fn offer_relay(
        &self,
        pair: &PairWanted,
        seats: &[Seat; 2],
        record: Option<PairRecord>,
    ) -> Result<Option<PairRecord>, NegotiateError> {
        let outside = &self.outside;
        let (now, at) = (Instant::now().into_std(), (outside.clock)());
        // One that is being emptied answers all the same, and may be back in a minute.
        let lost = pair.leaves.filter(|relay| !self.relays.drains(*relay));
        let losses = losses(record.as_ref(), lost, at);
        let used = record.as_ref().and_then(|record| record.relay);
        let current = used.filter(|relay| losses.iter().all(|loss| loss.relay != *relay));
        let trips = seats.map(|seat| seat.trips);
        let PairWanted { relay_rate: rate, payers, .. } = *pair;
        let wish = Wish { pair: [pair.a, pair.b], trips, rate, payers, current, losses };
        let (choice, offers) = self.relays.choose(now, at, &wish);
        let relay = offers.as_ref().map(|offers| offers[0].relay);
        let record = record.unwrap_or_else(|| waiting_record(seats, at));
        let told_lately = |before: &RelayChoice| before.at.plus(SAME_WISH) > at;
        let stays = pair.reason == Reason::Relay
            && relay.is_some_and(|relay| Some(relay) == used)
            && (pair.leaves.is_none() || record.choice.as_deref().is_some_and(told_lately));
        let changed = used != relay || record.choice.as_deref().is_none_or(|before| differs(before, &choice));
        let record = PairRecord { relay: relay.or(used), choice: Some(Box::new(choice)), ..record };
        match offers {
            Some(_) if stays => outside.metrics.offer(Offered::Stays),
            Some(offers) => {
                outside.metrics.offer(Offered::Tickets);
                for (seat, offer) in seats.iter().zip(offers) {
                    // A session that is gone gets its relay when it comes back.
                    let _delivered = outside.push(&party(*seat), Notice::Relay(offer)).await;
                }
            }
            None => {
                outside.metrics.offer(Offered::NoRelay);
                tracing::warn!("no relay has room");
                for seat in seats {
                    let _delivered = outside.push(&party(*seat), Notice::Record(record.clone())).await;
                }
            }
        }
        if changed && !stays {
            outside.presence.remember(&record, outside.record_lifetime).await?;
        }
        Ok(Some(record))
    }

    /// Opens the observations: what is not sealed for this session, now, was not observed.
    fn checked(&self, tag: SessionTag, [rtt, jitter]: [Option<Duration>; 2], ready: PunchReady) -> Ready {
        let at = (self.outside.clock)();
        let metrics = &self.outside.metrics;
        let valid = ready.observations.iter().take(MOST_OBSERVATIONS).filter_map(|observation| {
            match self.observations.open(observation, tag, at) {
                Ok(observed) => {
                    metrics.observation(Presented::Valid);
                    Some((observed.seen, observed.ttl))
                }
                Err(error) => {
                    metrics.observation(error.into());
                    None
                }
            }
        });
        let PunchReady { local, mapped, lan, .. } = ready;
        understood(&valid.collect::<Vec<_>>(), Ready { mapped, local, lan, rtt, jitter, ..Ready::default() })
    }
}

/// Completes `claimed` by what reflectors saw, the latest first, and takes away what they did not confirm.
fn understood(observed: &[(SocketAddr, u8)], claimed: Ready) -> Ready {
    let of = |v4: bool| observed.iter().copied().filter(move |(seen, _)| seen.ip().to_canonical().is_ipv4() == v4);
    let seen = of(true).next();
    let mut others: Vec<IpAddr> = Vec::new();
    for address in of(true).map(|(other, _)| other.ip()) {
        let known = seen.is_some_and(|(seen, _)| seen.ip() == address) || others.contains(&address);
        if !known && others.len() < MOST_OTHERS {
            others.push(address);
        }
    }
    // A mapping at an address that nobody saw is behind another NAT, or somebody else's.
    let public = |mapped: &SocketAddr| mapped.port() > 0 && observed.iter().any(|(seen, _)| seen.ip() == mapped.ip());
    let mapped = claimed.mapped.filter(public);
    let local = claimed.local.into_iter().take(MOST_LOCAL).collect();
    Ready { seen, others, seen6: of(false).next(), mapped, local, ..claimed }
}

impl Actor {
    /// Leads negotiations until `shutdown`. Their leases run out by themselves.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks: JoinSet<Option<Input>> = JoinSet::new();
        loop {
            while let Some(action) = self.schedule.poll_action() {
                let outside = self.outside.clone();
                tasks.spawn(async move { outside.act(action).await });
            }
            self.outside.metrics.active.set(i64::try_from(self.schedule.len()).unwrap_or(i64::MAX));
            let due = self.schedule.poll_timeout().map(Instant::from_std);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.schedule.handle_timeout(Instant::now().into_std());
                }
                Some(done) = tasks.join_next() => match done {
                    Ok(Some(input)) => self.take(input),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "a step of a negotiation panicked");
                    }
                },
                input = self.inbox.recv(), if tasks.len() < MOST_TASKS => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = Instant::now().into_std();
        match input {
            Input::Wanted(wanted) => self.schedule.handle_wanted(now, (self.outside.clock)(), *wanted),
            Input::Lease { number, key, claim } => {
                self.schedule.handle_lease(now, (self.outside.clock)(), number, key, claim);
            }
            Input::Ready { from, number, ready } => self.schedule.handle_ready(now, from, number, ready),
            Input::Report { from, report } => self.schedule.handle_report(now, from, report),
            Input::Gone { client, number } => self.schedule.handle_gone(now, client, number),
        }
    }
}

impl Outside {
    /// Carries out what the schedule wants; the result is for the schedule.
    async fn act(&self, action: Action) -> Option<Input> {
        match action {
            Action::Lease { number, key, ttl } => {
                let claim = self.claim(number, key, ttl).await.unwrap_or_else(|error| {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a lease was not decided");
                    Claim::Denied
                });
                Some(Input::Lease { number, key, claim })
            }
            Action::Release { number, key } => {
                self.release(number, key).await;
                None
            }
            Action::Prepare { to, preparation } => {
                let number = preparation.punch.number;
                self.push_or_gone(to, number, Notice::Prepare(preparation)).await
            }
            Action::Go { to, order } => {
                let number = order.punch.number;
                self.push_or_gone(to, number, Notice::Go(order)).await
            }
            Action::Off { to, punch: PunchId { leader, number } } => {
                let _delivered = self.push(&to, Notice::PunchOff(PunchId { leader, number })).await;
                None
            }
            Action::Settle(settled) => {
                self.settle(*settled).await;
                None
            }
            Action::Again { a, b } => self.look_up(a, b).await,
        }
    }

    async fn claim(&self, number: u64, key: LeaseKey, ttl: Duration) -> Result<Claim, presence::Error> {
        if !self.presence.lease(&key.to_string(), number, ttl).await? {
            return Ok(Claim::Denied);
        }
        let record = match key {
            LeaseKey::Pair(a, b) => self.presence.recall(a, b).await?,
            LeaseKey::Client(_)
            | LeaseKey::Address(_)
            | LeaseKey::BirthdayOfClient(_)
            | LeaseKey::BirthdayAtAddress(_)
            | LeaseKey::BirthdayOfPair(..) => None,
        };
        Ok(Claim::Granted(record.map(Box::new)))
    }

    /// What is not released runs out.
    async fn release(&self, number: u64, key: LeaseKey) {
        if let Err(error) = self.presence.release(&key.to_string(), number).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a lease was not released");
        }
    }

    async fn settle(&self, settled: Settled) {
        self.metrics.negotiation(&settled);
        let Settled { parties, record, leases, .. } = settled;
        let known = self.presence.recall(record.a, record.b).await.ok().flatten();
        let before = known.as_ref().map(|known| known.outcome);
        let (relay, choice) = known.map(relay_of).unwrap_or_default();
        let record = PairRecord { relay, choice, ..record };
        if let Err(error) = self.presence.remember(&record, self.record_lifetime).await {
            // The ladder starts over; limits of the schedule still hold.
            tracing::warn!(error = &error as &dyn std::error::Error, "the record of a pair was not kept");
        }
        for key in leases {
            self.release(record.trace, key).await;
        }
        tracing::debug!(
            a = %record.a, b = %record.b, outcome = ?record.outcome, strategy = record.strategy.name(),
            attempts = record.attempts, took_ms = record.took_ms, trace = record.trace, "a negotiation ended"
        );
        for to in &parties {
            let _delivered = self.push(to, Notice::Record(record.clone())).await;
        }
        if before != Some(record.outcome) {
            self.happened(&record).await;
        }
    }

    /// Tells programs of operators how a pair is connected from now on.
    async fn happened(&self, record: &PairRecord) {
        let kind = match record.outcome {
            PairOutcome::Direct => EventKind::PairDirect,
            PairOutcome::Relayed => EventKind::PairRelayed,
            PairOutcome::Pending => return,
        };
        let mut drawn = [0; 10];
        if SystemRandom::new().fill(&mut drawn).is_err() {
            return;
        }
        let event = Event::new(kind, (self.clock)(), drawn).pair(record.a, record.b);
        if let Err(error) = self.bus.publish(&Happened { events: vec![event] }).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "an event was not told");
        }
    }

    async fn look_up(&self, a: ClientId, b: ClientId) -> Option<Input> {
        let seats = self.presence.find(&[a, b]).await.ok()?;
        let [Some(a), Some(b)] = seats[..] else { return None };
        let record = self.presence.recall(a.client, b.client).await.ok()?;
        let wanted = Wanted { parties: [a, b].map(party), demanded: false, record };
        Some(Input::Wanted(Box::new(wanted)))
    }

    async fn push_or_gone(&self, to: Party, number: u64, notice: Notice) -> Option<Input> {
        let gone = self.push(&to, notice).await.is_err();
        gone.then_some(Input::Gone { client: to.client, number })
    }

    async fn push(&self, to: &Party, notice: Notice) -> Result<(), bus::Error> {
        let target = Target { client: to.client, epoch: to.epoch };
        let pushed = self.bus.publish_to(to.gateway, &Push { to: vec![target], notice }).await;
        if let Err(error) = &pushed {
            self.metrics.undelivered.inc();
            tracing::debug!(error = error as &dyn std::error::Error, "a client was not told");
        }
        pushed
    }
}

/// The schedule does not know which relay a pair uses.
fn relay_of(known: PairRecord) -> (Option<RelayId>, Option<Box<RelayChoice>>) {
    // When to ask again was said when it was asked.
    let choice = known.choice.map(|choice| Box::new(RelayChoice { retry_after_ms: None, ..*choice }));
    (known.relay, choice)
}

fn party(seat: Seat) -> Party {
    let Seat { client, gateway, epoch, since, profile, .. } = seat;
    Party { client, gateway, epoch, since, profile }
}

/// The relays that the pair avoids: those known before, as long as that counts, and the one that it leaves.
fn losses(record: Option<&PairRecord>, leaves: Option<RelayId>, at: UnixMillis) -> Vec<RelayLoss> {
    let before = record.and_then(|record| record.choice.as_ref()).map(|choice| choice.losses.as_slice());
    let before = before.unwrap_or_default().iter().copied();
    let older = before.filter(|loss| loss.until > at && Some(loss.relay) != leaves);
    let newest = leaves.map(|relay| RelayLoss { relay, until: at.plus(AVOIDED) });
    newest.into_iter().chain(older).take(MOST_LOSSES).collect()
}

/// Whether a choice is worth keeping beside that before: loads and round trips change all the time.
fn differs(before: &RelayChoice, choice: &RelayChoice) -> bool {
    let known = |choice: &RelayChoice| choice.candidates.iter().filter(|one| one.rtts_us != [None; 2]).count();
    (before.of, before.why, known(before), &before.losses) != (choice.of, choice.why, known(choice), &choice.losses)
}

/// The first record of a pair: on a relay, nothing tried.
fn waiting_record(seats: &[Seat; 2], at: UnixMillis) -> PairRecord {
    PairRecord {
        a: seats[0].client,
        b: seats[1].client,
        class_a: seats[0].profile.map(|profile| profile.class()),
        class_b: seats[1].profile.map(|profile| profile.class()),
        strategy: Strategy::Relay,
        outcome: PairOutcome::Pending,
        attempts: 0,
        started: at,
        took_ms: 0,
        packets: 0,
        relay: None,
        hint: "relayed while a direct path is looked for".to_owned(),
        trace: 0,
        via: None,
        budget: 0,
        places: [0; 2],
        choice: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_observation_of_each_family_counts_and_other_addresses_are_kept() {
        let observed = seen(&["203.0.113.1:4001", "[2001:db8::1]:4000", "203.0.113.1:4000", "203.0.113.9:4000"]);
        let ready = understood(&observed, Ready::default());
        assert_eq!(ready.seen, Some(observed[0]));
        assert_eq!(ready.seen6, Some(observed[1]));
        assert_eq!(ready.others, [observed[3].0.ip()]);
    }

    #[test]
    fn a_port_mapping_counts_only_at_an_address_that_was_seen() {
        let observed = seen(&["203.0.113.1:4001"]);
        for (mapped, counts) in [
            ("203.0.113.1:5000", true),
            ("203.0.113.2:5000", false),
            ("10.0.0.1:5000", false),
            ("203.0.113.1:0", false),
        ] {
            let mapped = Some(mapped.parse().unwrap());
            let ready = understood(&observed, Ready { mapped, ..Ready::default() });
            assert_eq!(ready.mapped.is_some(), counts, "{mapped:?}");
        }
    }

    #[test]
    fn nobody_makes_the_server_remember_thousands_of_addresses() {
        let local = (0..5_000).map(|port| ([192, 168, 1, 1], port).into()).collect();
        let observed: Vec<_> = (0..200).map(|last| (([203, 0, 113, last], 4_000).into(), 57)).collect();
        let ready = understood(&observed, Ready { local, ..Ready::default() });
        assert_eq!((ready.local.len(), ready.others.len()), (MOST_LOCAL, MOST_OTHERS));
    }

    fn seen(endpoints: &[&str]) -> Vec<(SocketAddr, u8)> {
        endpoints.iter().map(|endpoint| (endpoint.parse().unwrap(), 57)).collect()
    }
}
