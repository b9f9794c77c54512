//! A bounded queue with many consumers, whose items can become visible later.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Mutex<VecDeque<Waiting<T>>>,
    arrived: Notify,
    capacity: usize,
}

/// Where an item goes: visible from `due` on, before the `ahead_of` last ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) due: Instant,
    pub(super) ahead_of: usize,
}

/// The queue had no room; the item was not taken.
#[derive(Debug)]
pub(super) struct Full;

#[derive(Debug)]
struct Waiting<T> {
    due: Instant,
    item: T,
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), capacity }
    }

    /// Adds `item`, or not when the queue is full.
    pub(super) fn push(&self, item: T, place: Place) -> Result<(), Full> {
        let mut waiting = self.lock();
        if waiting.len() >= self.capacity {
            return Err(Full);
        }
        insert(&mut waiting, item, place);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Adds `item`; when the queue is full the oldest one is dropped.
    pub(super) fn push_out(&self, item: T, place: Place) {
        let mut waiting = self.lock();
        if waiting.len() >= self.capacity {
            waiting.pop_front();
        }
        insert(&mut waiting, item, place);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// The next item that is due. Safe to cancel.
    pub(super) async fn pop(&self) -> T {
        loop {
            let arrived = self.arrived.notified();
            let next_due = match self.pop_due(Instant::now()) {
                Ok(item) => return item,
                Err(next_due) => next_due,
            };
            match next_due {
                None => arrived.await,
                Some(due) => {
                    // Either way the queue is looked at again.
                    let _ = tokio::time::timeout_at(due, arrived).await;
                }
            }
        }
    }

    /// The first item that is due at `now`, or else when the next one will be.
    fn pop_due(&self, now: Instant) -> Result<T, Option<Instant>> {
        let mut waiting = self.lock();
        // Without delays the first item is due, so that this looks at one.
        match waiting.iter().position(|waiting| waiting.due <= now) {
            Some(index) => Ok(waiting.remove(index).expect("the position was found under this lock").item),
            None => Err(waiting.iter().map(|waiting| waiting.due).min()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert<T>(waiting: &mut VecDeque<Waiting<T>>, item: T, place: Place) {
    let index = waiting.len() - place.ahead_of.min(waiting.len());
    waiting.insert(index, Waiting { due: place.due, item });
}
