//! Whether another process has changed what this process keeps in memory of the whole store: a random
//! word for each [`Set`], which changes in the same transaction as the set. The first round trip of every
//! question brings the words.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    super::Set,
    database::{Epoch, Param, Statement},
};

/// The first byte of the key of a word. No record of the store has such a key.
const WORD: u8 = 0xff;

/// What is known of one word.
#[derive(Clone, Debug, Default)]
struct Word {
    value: Option<Vec<u8>>,
    /// How often it was found to be another than this process knew.
    changes: u64,
}

#[derive(Default)]
struct KnownWords {
    words: [Word; Set::ALL.len()],
    epoch: Option<Epoch>,
}

/// The words, as this process knows them.
#[derive(Default)]
pub(super) struct Words(Mutex<KnownWords>);

/// A row of a word.
pub(super) struct WordRow {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Words {
    /// Reads all words.
    pub(super) fn read() -> Statement {
        let from = Param::Bytes(Some(vec![WORD]));
        Statement::new("select key, value from store_word where key >= $1", vec![from])
    }

    /// Takes note of all words.
    pub(super) fn learn(&self, rows: &[WordRow], epoch: Epoch) {
        let mut known = self.known();
        let is_other = known.epoch.replace(epoch).is_some_and(|before| before != epoch);
        for (set, word) in Set::ALL.into_iter().zip(&mut known.words) {
            let key = key_of(set);
            let value = rows.iter().find(|it| it.key == key).map(|it| it.value.clone());
            if is_other || word.value != value {
                *word = Word { value, changes: word.changes + 1 };
            }
        }
    }

    /// How often a set was found changed by another process.
    pub(super) fn changes(&self, set: Set) -> u64 {
        let known = self.known();
        let mut words = Set::ALL.into_iter().zip(&known.words);
        words.find(|(it, _)| *it == set).map_or(0, |(_, word)| word.changes)
    }

    /// The statement that changes the word of a set to `new`, with the guard that no other process has
    /// changed it meanwhile.
    pub(super) fn change(&self, set: Set, new: &[u8]) -> Statement {
        let known = self.known();
        let mut words = Set::ALL.into_iter().zip(&known.words);
        let old = words.find(|(it, _)| *it == set).and_then(|(_, word)| word.value.clone());
        let params = vec![
            Param::Bytes(Some(key_of(set))),
            Param::Bytes(Some(new.to_vec())),
            Param::Bytes(old),
        ];
        Statement::new(
            "insert into store_word (key, value) values ($1, $2) on conflict (key) do update \
             set value = case when store_word.value = $3 then excluded.value end",
            params,
        )
    }

    /// Whether a word is this one.
    pub(super) fn is(&self, set: Set, value: &[u8]) -> bool {
        let known = self.known();
        let mut words = Set::ALL.into_iter().zip(&known.words);
        words.any(|(it, word)| it == set && word.value.as_deref() == Some(value))
    }

    /// Takes note that this process has changed the word of a set.
    pub(super) fn changed(&self, set: Set, value: Vec<u8>) {
        let mut known = self.known();
        let mut words = Set::ALL.into_iter().zip(&mut known.words);
        if let Some((_, word)) = words.find(|(it, _)| *it == set) {
            word.value = Some(value);
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownWords> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(set: Set) -> Vec<u8> {
    vec![WORD, set.tag()]
}
