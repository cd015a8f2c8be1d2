//! Shares of what is scarce, such as connections, or bytes that wait. Each owner has a bound of its
//! own, and there is one for all together. Where a bound is reached, what is oldest gives way: of the
//! owner itself if the bound is its own, else of the owner that has most. So a flood can only use up
//! the share of those who send it, and whoever has little always finds room.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::{Cut, SHARE};
use crate::metrics::Metrics;

/// How many there may be, and how many bytes: of everybody, and of one owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) all: Amount,
    pub(crate) each: Amount,
}

/// A count, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// There is no room, and nothing of those who have most could give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// All shares of one thing.
pub(crate) struct Shares<K: Eq + Hash>(Arc<Inner<K>>);

struct Inner<K> {
    /// Under which what gave way is counted.
    name: &'static str,
    metrics: Metrics,
    /// How many there are, and how many bytes.
    shown: (Gauge, Gauge),
    bounds: Bounds,
    table: Mutex<Table<K>>,
}

struct Table<K> {
    /// Rises with everything that is noted, so that it tells what is older.
    turn: u64,
    all: Amount,
    owners: HashMap<K, Owner>,
    entries: HashMap<u64, Entry<K>>,
}

#[derive(Debug, Default)]
struct Owner {
    has: Amount,
    /// What could give way, oldest first: the turn since which it could, and the entry.
    can_go: BTreeSet<(u64, u64)>,
}

struct Entry<K> {
    /// `None`: counted, but nobody's share.
    owner: Option<K>,
    bytes: usize,
    since: Instant,
    /// When some of it was last taken.
    moved: Instant,
    turn: u64,
    /// How many reasons there are for not giving way.
    kept: usize,
    cut: Cut,
}

/// Which bound is reached.
#[derive(Clone, Copy)]
enum Scarce {
    Count,
    Bytes,
}

/// A share. Given back when it is dropped.
pub(crate) struct Share<K: Eq + Hash + Clone> {
    shares: Shares<K>,
    id: u64,
}

/// While it is held, a share does not give way.
#[derive(Debug)]
pub(crate) struct Kept<K: Eq + Hash + Clone>(Arc<Share<K>>);

impl Bounds {
    /// Of which one owner may have a part.
    pub(super) fn shared(count: usize, bytes: usize) -> Self {
        let each = Amount { count: (count / SHARE).max(1), bytes: bytes / SHARE };
        Self { all: Amount { count, bytes }, each }
    }
}

impl Amount {
    fn of(self, scarce: Scarce) -> usize {
        match scarce {
            Scarce::Count => self.count,
            Scarce::Bytes => self.bytes,
        }
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub(super) fn new(name: &'static str, metrics: Metrics, bounds: Bounds) -> Self {
        let (turn, all) = Default::default();
        let (owners, entries) = Default::default();
        let table = Mutex::new(Table { turn, all, owners, entries });
        let shown = metrics.shares(name);
        Self(Arc::new(Inner { name, metrics, shown, bounds, table }))
    }

    /// One more, of so many bytes. `cut` is used when it has to give way.
    pub(crate) fn add(&self, owner: Option<K>, bytes: usize, cut: Cut) -> Result<Share<K>, Full> {
        let added = self.change(|table, bounds, gone| {
            let more = Amount { count: 1, bytes };
            table.make_room(bounds, (owner.as_ref(), more), gone)?;
            let id = table.insert(owner, bytes, cut);
            Ok(Share { shares: self.clone(), id })
        });
        if added.is_err() {
            self.0.metrics.limited(self.0.name);
        }
        added
    }

    /// Cuts what has been there for so long.
    pub(crate) fn cut_older_than(&self, age: Duration) {
        self.change(|table, _, gone| {
            let old = |(id, entry): (&u64, &Entry<K>)| (entry.since.elapsed() > age).then_some(*id);
            let old: Vec<u64> = table.entries.iter().filter_map(old).collect();
            gone.extend(old.into_iter().filter_map(|id| table.remove(id)));
        });
    }

    /// Of what has not moved for so long, cuts what belongs to the owner that has most bytes.
    pub(super) fn cut_stalled(&self, age: Duration) {
        self.change(|table, _, gone| {
            let still = table.entries.iter().filter(|(_, it)| it.moved.elapsed() >= age);
            let of = still.map(|(id, it)| (table.has(it.owner.as_ref()).bytes, Reverse(*id)));
            let most = of.max();
            gone.extend(most.and_then(|(_, Reverse(id))| table.remove(id)));
        });
    }

    /// Changes the table; then, with nothing locked, cuts what had to go.
    fn change<T>(&self, change: impl FnOnce(&mut Table<K>, &Bounds, &mut Vec<Cut>) -> T) -> T {
        let mut gone = Vec::new();
        let Inner { table, bounds, .. } = &*self.0;
        let changed = {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = change(&mut table, bounds, &mut gone);
            let (count, bytes) = &self.0.shown;
            count.set(i64::try_from(table.all.count).unwrap_or(i64::MAX));
            bytes.set(i64::try_from(table.all.bytes).unwrap_or(i64::MAX));
            changed
        };
        for cut in gone {
            self.0.metrics.limited(self.0.name);
            cut.cut();
        }
        changed
    }
}

impl<K: Eq + Hash + Clone> Table<K> {
    fn insert(&mut self, owner: Option<K>, bytes: usize, cut: Cut) -> u64 {
        self.turn += 1;
        let id = self.turn;
        self.all.count += 1;
        self.all.bytes += bytes;
        if let Some(owner) = &owner {
            let of = self.owners.entry(owner.clone()).or_default();
            of.has.count += 1;
            of.has.bytes += bytes;
            of.can_go.insert((id, id));
        }
        let since = Instant::now();
        let entry = Entry { owner, bytes, since, moved: since, turn: id, kept: 0, cut };
        self.entries.insert(id, entry);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Cut> {
        let Entry { owner, bytes, turn, cut, .. } = self.entries.remove(&id)?;
        self.all.count -= 1;
        self.all.bytes -= bytes;
        if let Some(owner) = owner
            && let Some(of) = self.owners.get_mut(&owner)
        {
            of.has.count -= 1;
            of.has.bytes -= bytes;
            of.can_go.remove(&(turn, id));
            if of.has.count == 0 {
                self.owners.remove(&owner);
            }
        }
        Some(cut)
    }

    /// Removes what must give way to so much more of an owner.
    fn make_room(
        &mut self,
        bounds: &Bounds,
        (owner, more): (Option<&K>, Amount),
        gone: &mut Vec<Cut>,
    ) -> Result<(), Full> {
        for scarce in [Scarce::Count, Scarce::Bytes] {
            let more = more.of(scarce);
            if more == 0 {
                continue;
            }
            while let Some(owner) = owner
                && let has = self.has(Some(owner)).of(scarce)
                // One that is larger than a whole share is taken alone.
                && has > 0
                && has + more > bounds.each.of(scarce)
            {
                let oldest = self.oldest(owner, scarce).ok_or(Full)?;
                gone.extend(self.remove(oldest));
            }
            while self.all.of(scarce) > 0 && self.all.of(scarce) + more > bounds.all.of(scarce) {
                let oldest = self.oldest_of_most(owner, scarce).ok_or(Full)?;
                gone.extend(self.remove(oldest));
            }
        }
        Ok(())
    }

    fn has(&self, owner: Option<&K>) -> Amount {
        owner.and_then(|owner| self.owners.get(owner)).map(|it| it.has).unwrap_or_default()
    }

    /// The oldest of an owner that could give way, and would be of use.
    fn oldest(&self, owner: &K, scarce: Scarce) -> Option<u64> {
        let is_of_use = |id: &u64| match scarce {
            Scarce::Count => true,
            Scarce::Bytes => self.entries.get(id).is_some_and(|it| it.bytes > 0),
        };
        self.owners.get(owner)?.can_go.iter().map(|(_, id)| *id).find(is_of_use)
    }

    /// The same of the owner that has most, if that is no less than what this one has.
    fn oldest_of_most(&self, owner: Option<&K>, scarce: Scarce) -> Option<u64> {
        let least = self.has(owner).of(scarce);
        let have = self.owners.iter().filter(|(_, it)| it.has.of(scarce) >= least);
        let could = have.filter_map(|(owner, it)| {
            Some((it.has.of(scarce), Reverse(self.oldest(owner, scarce)?)))
        });
        could.max().map(|(_, Reverse(id))| id)
    }
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// So many bytes more. If there is no room it may be this share itself that gives way: it is
    /// cut then.
    pub(crate) fn grow(&self, more: usize) -> Result<(), Full> {
        let id = self.id;
        self.shares.change(|table, bounds, gone| {
            let owner = table.entries.get(&id).ok_or(Full)?.owner.clone();
            let more = Amount { count: 0, bytes: more };
            table.make_room(bounds, (owner.as_ref(), more), gone)?;
            table.entries.get_mut(&id).ok_or(Full)?.bytes += more.bytes;
            table.all.bytes += more.bytes;
            if let Some(of) = owner.and_then(|owner| table.owners.get_mut(&owner)) {
                of.has.bytes += more.bytes;
            }
            Ok(())
        })
    }

    /// Some of it has been taken.
    pub(crate) fn moved(&self) {
        self.shares.change(|table, _, _| {
            if let Some(entry) = table.entries.get_mut(&self.id) {
                entry.moved = Instant::now();
            }
        });
    }

    /// None of its bytes are there any more.
    pub(crate) fn empty(&self) {
        self.shares.change(|table, _, _| {
            let Some(entry) = table.entries.get_mut(&self.id) else { return };
            let bytes = mem::take(&mut entry.bytes);
            table.all.bytes -= bytes;
            if let Some(of) = entry.owner.as_ref().and_then(|it| table.owners.get_mut(it)) {
                of.has.bytes -= bytes;
            }
        });
    }

    /// Gives the share back before its end. False: it has had to give way.
    pub(crate) fn end(&self) -> bool {
        self.shares.change(|table, _, _| table.remove(self.id).is_some())
    }

    /// Does not give way while the answer is held, and counts as new after that. `None`: it has
    /// given way already.
    pub(crate) fn keep(self: &Arc<Self>) -> Option<Kept<K>> {
        self.shares.change(|table, _, _| {
            let entry = table.entries.get_mut(&self.id)?;
            entry.kept += 1;
            if let Some(of) = entry.owner.as_ref().and_then(|it| table.owners.get_mut(it)) {
                of.can_go.remove(&(entry.turn, self.id));
            }
            Some(Kept(Arc::clone(self)))
        })
    }
}

impl<K: Eq + Hash + Clone> Drop for Kept<K> {
    fn drop(&mut self) {
        let id = self.0.id;
        self.0.shares.change(|table, _, _| {
            let Some(entry) = table.entries.get_mut(&id) else { return };
            entry.kept -= 1;
            if entry.kept == 0 {
                table.turn += 1;
                entry.turn = table.turn;
                if let Some(of) = entry.owner.as_ref().and_then(|it| table.owners.get_mut(it)) {
                    of.can_go.insert((entry.turn, id));
                }
            }
        });
    }
}

impl<K: Eq + Hash + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Of four, and eight bytes; of one owner two, and four bytes.
    fn shares() -> Shares<&'static str> {
        let all = Amount { count: 4, bytes: 8 };
        let each = Amount { count: 2, bytes: 4 };
        Shares::new("connections", Metrics::new(), Bounds { all, each })
    }

    struct One {
        share: Arc<Share<&'static str>>,
        cut: CancellationToken,
    }

    impl One {
        fn try_new(
            shares: &Shares<&'static str>,
            owner: &'static str,
            bytes: usize,
        ) -> Option<Self> {
            let cut = CancellationToken::new();
            let share = shares.add(Some(owner), bytes, Cut::of(cut.clone())).ok()?;
            Some(Self { share: Arc::new(share), cut })
        }

        fn new(shares: &Shares<&'static str>, owner: &'static str, bytes: usize) -> Self {
            Self::try_new(shares, owner, bytes).unwrap()
        }

        fn is_there(&self) -> bool {
            !self.cut.is_cancelled()
        }
    }

    fn there(all: &[&One]) -> Vec<bool> {
        all.iter().map(|it| it.is_there()).collect()
    }

    fn amount(shares: &Shares<&'static str>) -> (usize, usize, usize) {
        let table = shares.0.table.lock().unwrap();
        (table.all.count, table.all.bytes, table.owners.len())
    }

    #[test]
    fn the_oldest_of_the_same_owner_gives_way_at_its_own_bound() {
        let shares = shares();
        let (a, b) = (One::new(&shares, "a", 0), One::new(&shares, "b", 0));
        let (a2, a3) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
        assert_eq!(there(&[&a, &b, &a2, &a3]), [false, true, true, true]);
        assert_eq!(amount(&shares), (3, 0, 2));
        // Given back once, whoever was first.
        drop((a, a2));
        assert_eq!(amount(&shares), (2, 0, 2));
    }

    #[test]
    fn the_oldest_of_who_has_most_gives_way_to_others() {
        let shares = shares();
        let old = One::new(&shares, "old", 0);
        let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
        let b = One::new(&shares, "b", 0);
        let c = One::new(&shares, "c", 0);
        assert_eq!(there(&[&old, &a, &a2, &b, &c]), [true, false, true, true, true]);
        // All have the same.
        let d = One::new(&shares, "d", 0);
        assert_eq!(there(&[&old, &a2, &b, &c, &d]), [false, true, true, true, true]);
    }

    #[test]
    fn what_is_kept_does_not_give_way() {
        let shares = shares();
        let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
        let (kept, again) = (a.share.keep().unwrap(), a.share.keep().unwrap());
        let a3 = One::new(&shares, "a", 0);
        assert_eq!(there(&[&a, &a2, &a3]), [true, false, true]);
        let kept_too = a3.share.keep();
        assert!(One::try_new(&shares, "a", 0).is_none());
        drop(kept);
        assert!(One::try_new(&shares, "a", 0).is_none());
        drop(kept_too);
        drop(again);
        // It counts as new from then on.
        let a4 = One::new(&shares, "a", 0);
        assert_eq!(there(&[&a, &a3, &a4]), [true, false, true]);
        assert!(a3.share.keep().is_none());
    }

    #[test]
    fn who_has_most_finds_no_room_if_others_have_less() {
        let shares = shares();
        let others = ["b", "c"].map(|owner| One::new(&shares, owner, 0));
        let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
        let kept = [a.share.keep(), a2.share.keep()];
        assert!(One::try_new(&shares, "a", 0).is_none());
        // Nobody who has as much could give way.
        let d = One::new(&shares, "d", 0);
        assert_eq!(there(&[&others[0], &others[1], &d]), [false, true, true]);
        drop(kept);
    }

    #[test]
    fn bytes() {
        let shares = shares();
        let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 1));
        a2.share.grow(3).unwrap();
        // What has none would be of no use.
        a.share.grow(1).unwrap();
        assert_eq!(there(&[&a, &a2]), [true, false]);
        assert_eq!(a2.share.grow(1), Err(Full));
        // Its own bytes are the oldest.
        assert_eq!(a.share.grow(4), Err(Full));
        assert!(!a.is_there());
        // One that is larger than all is taken alone.
        let large = One::new(&shares, "a", 9);
        let b = One::new(&shares, "b", 1);
        assert_eq!(there(&[&large, &b]), [false, true]);
        b.share.empty();
        assert_eq!(amount(&shares), (1, 0, 1));
        assert!(b.share.end() && !b.share.end());
        assert_eq!(amount(&shares), (0, 0, 0));
    }

    #[test]
    fn what_is_nobodys_share_never_gives_way() {
        let shares = shares();
        let cut = CancellationToken::new();
        let nobodys: Vec<_> = (0..4).map(|_| shares.add(None, 0, Cut::of(cut.clone()))).collect();
        assert!(One::try_new(&shares, "a", 0).is_none());
        assert!(!cut.is_cancelled());
        drop(nobodys);
        assert_eq!(amount(&shares), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_been_there_for_long_is_cut() {
        let shares = shares();
        let a = One::new(&shares, "a", 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        let b = One::new(&shares, "b", 1);
        shares.cut_older_than(Duration::from_secs(1));
        assert_eq!(there(&[&a, &b]), [false, true]);
        assert_eq!(amount(&shares), (1, 1, 1));
    }
}
