//! Every engine against a map: random reads, commits and conflicts.

mod keyspace;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::Options;

/// One call of an engine. Keys and values are few, so that calls meet each other's records.
#[derive(Clone, Debug)]
enum Call {
    Read(Vec<Vec<u8>>),
    Scan {
        prefix: Vec<u8>,
        after: Option<Vec<u8>>,
        limit: usize,
    },
    LastKey(Vec<u8>),
    /// Changes, on the condition that a key is as it was some calls ago.
    Commit {
        depends_on: Option<Vec<u8>>,
        is_stale: bool,
        changes: Vec<(Vec<u8>, Option<u8>)>,
    },
    Flush,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 0..4)
}

fn call() -> impl Strategy<Value = Call> {
    let changes = prop::collection::vec((key(), prop::option::weighted(0.7, 0u8..4)), 0..6);
    prop_oneof![
        prop::collection::vec(key(), 0..5).prop_map(Call::Read),
        (key(), prop::option::of(key()), 0usize..6).prop_map(|(prefix, after, limit)| Call::Scan {
            prefix,
            after,
            limit
        }),
        key().prop_map(Call::LastKey),
        (prop::option::of(key()), any::<bool>(), changes).prop_map(
            |(depends_on, is_stale, changes)| Call::Commit { depends_on, is_stale, changes }
        ),
        Just(Call::Flush),
    ]
}

/// What an engine must do, written down as simply as possible.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Vec<u8>>);

impl Model {
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_found = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|it| key > it);
        let found = self.0.iter().filter(|(key, _)| is_found(key));
        found.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// The records of a model may be read from an engine that has more records below other prefixes:
/// the local engine keeps its mark. So all keys of the test get a prefix of their own.
fn own(key: &[u8]) -> Vec<u8> {
    [b"\xfe", key].concat()
}

fn plain(records: Records) -> Vec<(Vec<u8>, Vec<u8>)> {
    records.into_iter().map(|(key, value)| (key, value.to_vec())).collect()
}

fn check(engine: &Engine, calls: &[Call], may_conflict: bool) {
    let mut model = Model::default();
    for call in calls {
        match call {
            Call::Read(keys) => {
                let keys: Vec<Vec<u8>> = keys.iter().map(|it| own(it)).collect();
                let read = engine.read_many(&keys).unwrap();
                let read: Vec<Option<Vec<u8>>> =
                    read.into_iter().map(|it| it.map(|value| value.to_vec())).collect();
                let expected: Vec<_> = keys.iter().map(|it| model.0.get(it).cloned()).collect();
                assert_eq!(read, expected);
            }
            Call::Scan { prefix, after, limit } => {
                let (prefix, after) = (own(prefix), after.as_deref().map(own));
                // A scan starts at `after`, so callers give one that has the prefix.
                let after = after.filter(|it| it.starts_with(&prefix));
                let found = engine.scan(&prefix, after.as_deref(), *limit).unwrap();
                assert_eq!(plain(found), model.scan(&prefix, after.as_deref(), *limit));
            }
            Call::LastKey(prefix) => {
                let prefix = own(prefix);
                let expected = model.scan(&prefix, None, usize::MAX).pop().map(|it| it.0);
                assert_eq!(engine.last_key(&prefix).unwrap(), expected);
            }
            Call::Commit { depends_on, is_stale, changes } => {
                let seen = depends_on.as_deref().map(|key| {
                    let key = own(key);
                    let stale = is_stale.then(|| StoredValue::from(b"stale".to_vec()));
                    let value = engine.read(&key).unwrap();
                    Seen { key, value: if *is_stale { stale } else { value }, stamp: None }
                });
                let changes: Changes = changes
                    .iter()
                    .map(|(key, value)| (own(key), value.map(|it| vec![it].into())))
                    .collect();
                let is_refused = seen.is_some() && *is_stale;
                match engine.commit(seen.as_ref(), changes.clone(), Effect::Adds).unwrap() {
                    Commit::Done => {
                        assert!(!is_refused, "a commit on a stale record was applied");
                        for (key, value) in changes {
                            match value {
                                Some(value) => model.0.insert(key, value.to_vec()),
                                None => model.0.remove(&key),
                            };
                        }
                    }
                    Commit::Conflict => {
                        assert!(seen.is_some(), "a commit without a condition conflicted");
                        assert!(is_refused || may_conflict, "a conflict where there is none");
                    }
                }
            }
            Call::Flush => engine.flush().unwrap(),
        }
        assert_eq!(
            plain(engine.scan(b"\xfe", None, usize::MAX).unwrap()),
            model.scan(b"", None, usize::MAX)
        );
    }
}

proptest! {
    #[test]
    fn the_test_engine_is_a_map(seed: u64, one_in in 0u64..4, calls in prop::collection::vec(call(), 0..60)) {
        check(&Engine::Test(TestEngine::new(seed, one_in)), &calls, one_in > 0);
    }
}

proptest! {
    // Each case opens a store.
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 10).max(1)))]

    #[test]
    fn the_local_engine_is_a_map(calls in prop::collection::vec(call(), 0..60)) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let engine = open(dir.path(), &options, |local, _| Ok(Engine::Local(local))).unwrap();
        check(&engine, &calls, false);
    }

    #[test]
    fn the_fjall_engine_is_a_map(calls in prop::collection::vec(call(), 0..60)) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let engine = Engine::Fjall(Fjall::open(dir.path(), &options).unwrap());
        check(&engine, &calls, false);
    }
}

#[test]
fn conflicts_are_drawn_from_the_seed_and_never_too_many_in_a_row() {
    let commit = |engine: &TestEngine| {
        let seen = Seen { key: b"room".to_vec(), value: None, stamp: None };
        engine.commit(Some(&seen), Changes::new(), Effect::Adds).unwrap()
    };
    let draw = |seed| {
        let engine = TestEngine::new(seed, 2);
        let drawn: Vec<Commit> = (0..200).map(|_| commit(&engine)).collect();
        assert!((50..150).contains(&engine.conflicts()), "{}", engine.conflicts());
        drawn
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let always = TestEngine::new(1, 1);
    let tries = (0..).take_while(|_| commit(&always) == Commit::Conflict).count();
    assert_eq!(tries, 8);
}
