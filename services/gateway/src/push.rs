//! What other roles have told to clients of this process.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bus::Served;
use bytes::Bytes;
use contract::gateway::{Notice, Push};
use domain::{Member, NetworkChange, Revision};
use wire::{
    Code,
    control::{MAX_MEMBERS_PER_FRAME, Refused, ServerFrame},
};

use crate::hub::{Handle, Hub};

/// Pushes handled at once: each is a few sends into queues.
const CONCURRENCY: usize = 64;

/// Takes pushes until the guard is stopped.
pub(crate) async fn serve(hub: &Arc<Hub>) -> Result<Vec<Served>, bus::Error> {
    let taking = Arc::clone(hub);
    let served = hub.seams.bus.subscribe(CONCURRENCY, move |push: Push| {
        let hub = Arc::clone(&taking);
        async move {
            take(&hub, push);
            Ok::<(), Infallible>(())
        }
    });
    Ok(vec![served.await?])
}

fn take(hub: &Hub, push: Push) {
    let told = told(push.notice);
    for target in &push.to {
        let Some(handle) = hub.find(target.client, target.epoch) else {
            hub.seams.metrics.pushes_missed.inc();
            continue;
        };
        // A session without room for it ends itself, and is counted then.
        if deliver(&handle, &told) {
            hub.seams.metrics.pushes.inc();
        }
    }
}

/// What sessions are told.
enum Told {
    /// Encoded once for all of them.
    Frames(Vec<Bytes>),
    End(Refused),
}

/// Whether the session had room for all of it.
fn deliver(handle: &Handle, told: &Told) -> bool {
    match told {
        Told::Frames(frames) => frames.iter().all(|frame| handle.push(frame.clone())),
        Told::End(refused) => {
            handle.end(refused.clone());
            true
        }
    }
}

fn told(notice: Notice) -> Told {
    let frame = match notice {
        Notice::Change(change) => {
            return Told::Frames(frames(change).iter().map(|frame| frame.encode().into()).collect());
        }
        Notice::Replaced => return Told::End(Refused::because(Code::Replaced)),
        Notice::Ended(delay_ms) => {
            return Told::End(Refused::after(Code::Ended, Duration::from_millis(delay_ms.into())));
        }
        Notice::PeerUp(peer) => ServerFrame::PeerUp(peer),
        Notice::PeerDown(peer) => ServerFrame::PeerDown(peer),
        Notice::PeerLost(peer) => ServerFrame::PeerLost(peer),
        Notice::Relay(offer) => ServerFrame::Relay(Box::new(offer)),
        Notice::Prepare(preparation) => ServerFrame::Prepare(preparation),
        Notice::Go(order) => ServerFrame::Go(order),
        Notice::Record(record) => ServerFrame::Record(Box::new(record)),
        Notice::PunchOff(punch) => ServerFrame::PunchOff(punch),
        Notice::Removals(removals) => ServerFrame::Removals(Box::new(removals)),
    };
    Told::Frames(vec![frame.encode().into()])
}

/// A change as frames that fit: each continues where the one before ended.
pub(crate) fn frames(change: NetworkChange) -> Vec<ServerFrame> {
    if change.members.iter().map(Member::weight).sum::<usize>() <= MAX_MEMBERS_PER_FRAME {
        return vec![ServerFrame::Change(change)];
    }
    let NetworkChange { network, name, since, revision, members, left, terms, secret } = change;
    let parts = parts(&members);
    let count = parts.len();
    let mut reached = since;
    let mut frames = Vec::with_capacity(count);
    for (nth, some) in parts.into_iter().enumerate() {
        let last = nth + 1 == count;
        // A list of members for their presence only has one revision all along.
        let until = if last || since == revision {
            revision
        } else {
            some.iter().map(|member| member.revision).max().unwrap_or(Revision::ZERO).clamp(reached, revision)
        };
        let (name, members) = (name.clone(), some.to_vec());
        frames.push(ServerFrame::Change(NetworkChange {
            network,
            name,
            since: reached,
            revision: until,
            members,
            left,
            terms,
            secret,
        }));
        reached = until;
    }
    frames
}

/// The members in order, as many at a time as fit into a frame.
fn parts(members: &[Member]) -> Vec<&[Member]> {
    let mut parts = Vec::new();
    let (mut start, mut weight) = (0, 0);
    for (at, member) in members.iter().enumerate() {
        weight += member.weight();
        if weight > MAX_MEMBERS_PER_FRAME && at > start {
            parts.push(&members[start..at]);
            (start, weight) = (at, member.weight());
        }
    }
    parts.push(&members[start..]);
    parts
}
