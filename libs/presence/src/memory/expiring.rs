//! A bounded table whose entries have an end.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use tokio::time::Instant;

use crate::Error;

/// Entries by key, and by when they end. What has ended is not there any more, except for [`Expiring::take_expired`] and
/// [`Expiring::keys_after`].
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: BTreeMap<K, (Instant, V)>,
    ends: BTreeSet<(Instant, K)>,
    most: usize,
}

impl<K: Ord + Clone, V> Expiring<K, V> {
    /// A table of at most `most` entries.
    pub(super) const fn new(most: usize) -> Self {
        Self { entries: BTreeMap::new(), ends: BTreeSet::new(), most }
    }

    /// Puts `value` in the place of any older one, for `ttl`.
    pub(super) fn insert(&mut self, now: Instant, key: K, value: V, ttl: Duration) -> Result<(), Error> {
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            self.make_room_of_expired(now)?;
        }
        self.remove(&key);
        self.ends.insert((now + ttl, key.clone()));
        self.entries.insert(key, (now + ttl, value));
        Ok(())
    }

    /// Drops what ends first if `key` would not fit.
    pub(super) fn make_room(&mut self, now: Instant, key: &K) {
        if self.entries.len() < self.most || self.entries.contains_key(key) || self.make_room_of_expired(now).is_ok() {
            return;
        }
        if let Some((_, first)) = self.ends.pop_first() {
            self.entries.remove(&first);
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some((key, (end, _))) = self.entries.remove_entry(key) {
            self.ends.remove(&(end, key));
        }
    }

    /// Removes at most `limit` entries that have ended, the oldest first.
    pub(super) fn take_expired(&mut self, now: Instant, limit: usize) -> Vec<K> {
        let mut taken = Vec::new();
        while taken.len() < limit && self.ends.first().is_some_and(|(end, _)| *end <= now) {
            let Some((_, key)) = self.ends.pop_first() else { break };
            self.entries.remove(&key);
            taken.push(key);
        }
        taken
    }

    pub(super) fn value_mut(&mut self, now: Instant, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|(end, _)| *end > now).map(|(_, value)| value)
    }

    pub(super) fn value<Q: Ord + ?Sized>(&self, now: Instant, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).filter(|(end, _)| *end > now).map(|(_, value)| value)
    }

    /// The keys after `after`, in order, those that have ended included.
    pub(super) fn keys_after(&self, after: Option<&K>) -> impl Iterator<Item = &K> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).map(|(key, _)| key)
    }

    fn make_room_of_expired(&mut self, now: Instant) -> Result<(), Error> {
        if self.take_expired(now, EXPIRED_AT_ONCE).is_empty() { Err(Error::Full) } else { Ok(()) }
    }
}

/// Bounds the work that one insertion does for others.
const EXPIRED_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_entry_ends_with_its_time() {
        let (mut table, now) = (Expiring::new(2), Instant::now());
        table.insert(now, 'a', 1, SECOND).unwrap();

        assert_eq!(table.value(now, &'a'), Some(&1));
        assert_eq!(table.value(now + SECOND, &'a'), None);
        assert_eq!(table.take_expired(now + SECOND, 9), ['a']);
        assert!(table.take_expired(now + SECOND, 9).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_value_has_a_new_end() {
        let (mut table, now) = (Expiring::new(2), Instant::now());
        table.insert(now, 'a', 1, SECOND).unwrap();
        table.insert(now, 'a', 2, SECOND * 2).unwrap();

        assert!(table.take_expired(now + SECOND, 9).is_empty());
        assert_eq!(table.value(now + SECOND, &'a'), Some(&2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_refuses_until_something_ends() {
        let (mut table, now) = (Expiring::new(2), Instant::now());
        table.insert(now, 'a', 1, SECOND).unwrap();
        table.insert(now, 'b', 2, SECOND * 2).unwrap();

        assert!(matches!(table.insert(now, 'c', 3, SECOND), Err(Error::Full)));
        table.insert(now, 'b', 4, SECOND * 2).unwrap();
        table.insert(now + SECOND, 'c', 5, SECOND).unwrap();
        assert_eq!(table.keys_after(Some(&'a')).collect::<Vec<_>>(), [&'b', &'c']);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_made_of_what_ends_first() {
        let (mut table, now) = (Expiring::new(2), Instant::now());
        table.insert(now, 'a', 1, SECOND * 2).unwrap();
        table.insert(now, 'b', 2, SECOND).unwrap();

        table.make_room(now, &'c');

        table.insert(now, 'c', 3, SECOND).unwrap();
        assert_eq!(table.keys_after(None).collect::<Vec<_>>(), [&'a', &'c']);
    }
}
