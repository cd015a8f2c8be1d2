//! Which shares are evicted, and when.

use tokio_util::sync::CancellationToken;

use super::*;

/// At most four shares and eight bytes; two shares and four bytes of one owner.
fn shares() -> Shares<&'static str> {
    let all = Amount { count: 4, bytes: 8 };
    let each = Amount { count: 2, bytes: 4 };
    Shares::new("connections", Metrics::new(), ShareBounds { all, each })
}

struct One {
    share: Arc<Share<&'static str>>,
    cut: CancellationToken,
}

impl One {
    fn try_new(shares: &Shares<&'static str>, owner: &'static str, bytes: usize) -> Option<Self> {
        let cut = CancellationToken::new();
        let share = shares.add(Some(owner), bytes, EvictionHandle::new(cut.clone())).ok()?;
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
    (table.total().count, table.total().bytes, table.owners())
}

#[test]
fn at_an_owners_bound_its_oldest_share_is_evicted() {
    let shares = shares();
    let (a, b) = (One::new(&shares, "a", 0), One::new(&shares, "b", 0));
    let (a2, a3) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
    assert_eq!(there(&[&a, &b, &a2, &a3]), [false, true, true, true]);
    assert_eq!(amount(&shares), (3, 0, 2));
    // Each share is freed once.
    drop((a, a2));
    assert_eq!(amount(&shares), (2, 0, 2));
}

#[test]
fn at_the_bound_of_all_the_oldest_of_the_largest_owner_is_evicted() {
    let shares = shares();
    let old = One::new(&shares, "old", 0);
    let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
    let b = One::new(&shares, "b", 0);
    let c = One::new(&shares, "c", 0);
    assert_eq!(there(&[&old, &a, &a2, &b, &c]), [true, false, true, true, true]);
    // All owners have the same number.
    let d = One::new(&shares, "d", 0);
    assert_eq!(there(&[&old, &a2, &b, &c, &d]), [false, true, true, true, true]);
}

#[test]
fn protected_shares_are_not_evicted() {
    let shares = shares();
    let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
    let (first, second) = (a.share.protect().unwrap(), a.share.protect().unwrap());
    let a3 = One::new(&shares, "a", 0);
    assert_eq!(there(&[&a, &a2, &a3]), [true, false, true]);
    let third = a3.share.protect();
    assert!(One::try_new(&shares, "a", 0).is_none());
    drop(first);
    assert!(One::try_new(&shares, "a", 0).is_none());
    drop(third);
    drop(second);
    // It counts as new from now on.
    let a4 = One::new(&shares, "a", 0);
    assert_eq!(there(&[&a, &a3, &a4]), [true, false, true]);
    assert!(a3.share.protect().is_none());
}

#[test]
fn the_largest_owner_gets_no_share_of_smaller_owners() {
    let shares = shares();
    let others = ["b", "c"].map(|owner| One::new(&shares, owner, 0));
    let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 0));
    let protected = [a.share.protect(), a2.share.protect()];
    assert!(One::try_new(&shares, "a", 0).is_none());
    // No owner with as much has a share that can be evicted.
    let d = One::new(&shares, "d", 0);
    assert_eq!(there(&[&others[0], &others[1], &d]), [false, true, true]);
    drop(protected);
}

#[test]
fn bytes_are_bounded_too() {
    let shares = shares();
    let (a, a2) = (One::new(&shares, "a", 0), One::new(&shares, "a", 1));
    a2.share.grow(3).unwrap();
    // The oldest share has no bytes, so that evicting it would not help.
    a.share.grow(1).unwrap();
    assert_eq!(there(&[&a, &a2]), [true, false]);
    assert_eq!(a2.share.grow(1), Err(Full));
    // The oldest bytes are its own.
    assert_eq!(a.share.grow(4), Err(Full));
    assert!(!a.is_there());
    // A share that is larger than the bound is accepted if it is the only one.
    let large = One::new(&shares, "a", 9);
    let b = One::new(&shares, "b", 1);
    assert_eq!(there(&[&large, &b]), [false, true]);
    b.share.clear_bytes();
    assert_eq!(amount(&shares), (1, 0, 1));
    assert!(b.share.end() && !b.share.end());
    assert_eq!(amount(&shares), (0, 0, 0));
}

#[test]
fn shares_without_an_owner_are_never_evicted() {
    let shares = shares();
    let cut = CancellationToken::new();
    let without_owner: Vec<_> =
        (0..4).map(|_| shares.add(None, 0, EvictionHandle::new(cut.clone()))).collect();
    assert!(One::try_new(&shares, "a", 0).is_none());
    assert!(!cut.is_cancelled());
    drop(without_owner);
    assert_eq!(amount(&shares), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn old_shares_are_evicted() {
    let shares = shares();
    let a = One::new(&shares, "a", 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    let b = One::new(&shares, "b", 1);
    shares.evict_older_than(Duration::from_secs(1));
    assert_eq!(there(&[&a, &b]), [false, true]);
    assert_eq!(amount(&shares), (1, 1, 1));
}
