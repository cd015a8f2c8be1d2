//! RecordCache that were read, absent ones and short lists included. What is found here is as new as the
//! stamp of its room: see [`super::rooms`].

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Equivalent, Weighter, sync::Cache};

use super::super::StoredValue;
use crate::num;

/// The greatest value that is kept, in bytes: states of large rooms are longer, and have a cache above
/// the engine.
const MAX_VALUE_BYTES: usize = 256 << 10;
/// The most records of a list that is kept.
pub(super) const MAX_LISTED: usize = 256;
/// The lengths of the prefixes that are kept as lists: a kind and a room; and an event; and an id; and a
/// judgement.
const PREFIXES: [usize; 4] = [5, 9, 21, 22];
/// The memory of an entry beside its bytes.
const OVERHEAD_BYTES: u64 = 120;
/// The usual size of an entry.
const USUAL_BYTES: u64 = 500;

/// A list of records, by their keys.
pub(super) type List = Arc<BTreeMap<Vec<u8>, StoredValue>>;

/// The records of one room between two changes by others. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CacheTick(pub(super) u64);

/// What an entry is about: a record, or all records with a prefix.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CachedKey {
    tick: CacheTick,
    is_prefix: bool,
    key: Vec<u8>,
}

/// A [`CachedKey`] that is looked for. Its hash is the same.
#[derive(Clone, Copy, Hash)]
struct SoughtKey<'k> {
    tick: CacheTick,
    is_prefix: bool,
    key: &'k [u8],
}

impl Equivalent<CachedKey> for SoughtKey<'_> {
    fn equivalent(&self, other: &CachedKey) -> bool {
        let Self { tick, is_prefix, key } = *self;
        tick == other.tick && is_prefix == other.is_prefix && key == other.key
    }
}

#[derive(Clone)]
enum CachedContent {
    /// `None`: there is no such record.
    Record(Option<StoredValue>),
    /// All records with the prefix.
    List(List),
}

#[derive(Clone)]
struct CachedBytes;

impl Weighter<CachedKey, CachedContent> for CachedBytes {
    fn weight(&self, CachedKey { key, .. }: &CachedKey, content: &CachedContent) -> u64 {
        let bytes = match content {
            CachedContent::Record(value) => value.as_ref().map_or(0, |it| it.len()),
            CachedContent::List(list) => {
                list.iter().map(|(key, value)| key.len() + value.len() + 96).sum()
            }
        };
        OVERHEAD_BYTES + num::u64(key.len() + bytes)
    }
}

/// The records in memory.
pub(super) struct RecordCache {
    cache: Cache<CachedKey, CachedContent, CachedBytes>,
}

impl RecordCache {
    /// A cache of at most `bytes` of memory.
    pub(super) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / USUAL_BYTES).unwrap_or(usize::MAX);
        Self { cache: Cache::with_weighter(items, bytes, CachedBytes) }
    }

    /// What is known of a record: `Some(None)` if it is known that there is none.
    pub(super) fn get(&self, tick: CacheTick, key: &[u8]) -> Option<Option<StoredValue>> {
        if let Some(CachedContent::Record(value)) =
            self.cache.get(&SoughtKey { tick, is_prefix: false, key })
        {
            return Some(value);
        }
        let list = prefixes(key).find_map(|it| self.list(tick, it))?;
        Some(list.get(key).cloned())
    }

    /// All records with a prefix, if they are known.
    pub(super) fn list(&self, tick: CacheTick, prefix: &[u8]) -> Option<List> {
        match self.cache.get(&SoughtKey { tick, is_prefix: true, key: prefix })? {
            CachedContent::List(list) => Some(list),
            CachedContent::Record(_) => None,
        }
    }

    /// Keeps a record that was read.
    pub(super) fn keep(&self, tick: CacheTick, key: Vec<u8>, value: Option<StoredValue>) {
        if value.as_ref().is_none_or(|it| it.len() <= MAX_VALUE_BYTES) {
            let kept = CachedKey { tick, is_prefix: false, key };
            self.cache.insert(kept, CachedContent::Record(value));
        }
    }

    /// Keeps all records with a prefix, unless there are many.
    pub(super) fn keep_list(
        &self,
        tick: CacheTick,
        prefix: Vec<u8>,
        list: BTreeMap<Vec<u8>, StoredValue>,
    ) {
        if list.len() <= MAX_LISTED && PREFIXES.contains(&prefix.len()) {
            let kept = CachedKey { tick, is_prefix: true, key: prefix };
            self.cache.insert(kept, CachedContent::List(Arc::new(list)));
        }
    }

    /// RecordCache what a commit of this process has changed.
    pub(super) fn change(&self, tick: CacheTick, key: &[u8], value: Option<&StoredValue>) {
        for prefix in prefixes(key) {
            let Some(mut list) = self.list(tick, prefix) else { continue };
            let changed = Arc::make_mut(&mut list);
            match value {
                Some(value) => drop(changed.insert(key.to_vec(), value.clone())),
                None => drop(changed.remove(key)),
            }
            let kept = CachedKey { tick, is_prefix: true, key: prefix.to_vec() };
            if list.len() <= MAX_LISTED {
                self.cache.insert(kept, CachedContent::List(list));
            } else {
                self.cache.remove(&kept);
            }
        }
        let kept = CachedKey { tick, is_prefix: false, key: key.to_vec() };
        match value {
            Some(value) if value.len() > MAX_VALUE_BYTES => drop(self.cache.remove(&kept)),
            value => self.cache.insert(kept, CachedContent::Record(value.cloned())),
        }
    }
}

/// The prefixes of a key that may be kept as lists, the shortest first.
fn prefixes(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    PREFIXES.into_iter().filter(|it| *it < key.len()).filter_map(|it| key.get(..it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> StoredValue {
        text.as_bytes().to_vec().into()
    }

    #[test]
    fn records_lists_and_absences_are_known_until_the_tick_changes() {
        let records = RecordCache::new(1 << 20);
        let tick = CacheTick(1);
        let [first, second, absent] = [b"\x0d\0\0\0\x01a", b"\x0d\0\0\0\x01b", b"\x0d\0\0\0\x01c"];
        assert_eq!(records.get(tick, first), None);
        let list = [(first.to_vec(), value("one"))].into();
        records.keep_list(tick, first[..5].to_vec(), list);
        assert_eq!(records.get(tick, first), Some(Some(value("one"))));
        assert_eq!(records.get(tick, absent), Some(None), "the list is whole");
        records.change(tick, second, Some(&value("two")));
        records.change(tick, first, None);
        assert_eq!(records.get(tick, first), Some(None));
        assert_eq!(records.get(tick, second), Some(Some(value("two"))));
        let list = records.list(tick, &first[..5]).unwrap();
        assert_eq!(list.keys().collect::<Vec<_>>(), [second]);
        assert_eq!(records.get(CacheTick(2), second), None);
    }

    #[test]
    fn a_list_that_grows_is_not_kept() {
        let records = RecordCache::new(8 << 20);
        records.keep_list(CacheTick(1), b"\x06\0\0\0\x01".to_vec(), BTreeMap::new());
        for number in 0..=u32::try_from(MAX_LISTED).unwrap() {
            let key = [b"\x06\0\0\0\x01".as_slice(), &number.to_be_bytes()].concat();
            records.change(CacheTick(1), &key, Some(&value("")));
        }
        assert!(records.list(CacheTick(1), b"\x06\0\0\0\x01").is_none());
    }
}
