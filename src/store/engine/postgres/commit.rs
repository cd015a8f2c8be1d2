//! Commits: one transaction of one round trip, guarded by the stamp of the room that the decision read.
//! A commit whose answer was lost is found out: either it is applied, or it is kept from ever being
//! applied.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use super::{
    super::{Changes, Commit, Effect, Seen, Set, StoredValue},
    Postgres,
    database::{Param, Statement, Transacted},
    layout::{self, RoomUuid, Table},
    reads::column,
    rooms::{KnownRoom, RoomRow},
    uuid_of,
    writes::{
        ROWS_PER_STATEMENT, Written, conditional, insert_room, set_stamp, upsert, upsert_of_store,
    },
};
use crate::store::{
    EngineError, FoundNum, RoomNum, StoreError,
    keys::{self, Scope},
};

/// How often the end of an unclear commit is looked for, and how often a commit without a condition is
/// sent.
const MAX_TRIES: u32 = 16;

/// What a commit does to one room.
struct RoomChange {
    uuid: RoomUuid,
    /// `None` for a room that has no number here: it is buried or forgotten.
    known: Option<Arc<KnownRoom>>,
    guard: Guard,
    /// The row as it is after the commit, as far as this process knows: others may have changed what the
    /// commit does not depend on.
    row: RoomRow,
    /// What the commit writes of the row, beside the stamp.
    written: WrittenColumns,
    /// Records by their keys above the engine; `None` removes one.
    records: Vec<(Vec<u8>, Option<StoredValue>)>,
}

/// The columns of the row of a room that a commit writes.
#[derive(Clone, Copy)]
struct WrittenColumns {
    life: bool,
    made: bool,
    gone: bool,
    value: bool,
}

/// What a commit depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// The room has no row.
    NoRow,
    /// The room has this stamp.
    Stamp(i64),
    /// The room was not made again: whatever else was changed.
    Made(i64),
}

/// All that a commit does.
struct CommitPlan {
    rooms: Vec<RoomChange>,
    of_store: Vec<(Vec<u8>, Option<StoredValue>)>,
    /// The sets that change, each with its new word.
    words: Vec<(Set, Vec<u8>)>,
    /// The record of the whole store that the commit depends on, and its value.
    condition: Option<(Vec<u8>, Option<StoredValue>)>,
}

impl Postgres {
    /// Applies all changes as one transaction, if the room has the stamp that `seen` has. Without `seen`,
    /// whatever is stored.
    pub(in super::super) fn commit(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
        effect: Effect,
    ) -> Result<Commit, StoreError> {
        let mut plan = self.plan(seen, changes, effect)?;
        let mut was_unclear = false;
        for _ in 0..MAX_TRIES {
            let transacted = self.database.transact(plan.statements(self));
            match transacted.map_err(|it| if was_unclear { unclear(it) } else { it })? {
                Transacted::Done => {
                    self.applied(plan);
                    return Ok(Commit::Done);
                }
                Transacted::GuardFailed if seen.is_some() => {
                    self.conflicts.fetch_add(1, Ordering::Relaxed);
                    return Ok(Commit::Conflict);
                }
                Transacted::GuardFailed => {
                    self.read_words()?;
                    if plan.words.is_empty() {
                        return Err(plan.gone());
                    }
                    // An earlier attempt whose answer was lost.
                    if plan.words.iter().all(|(set, word)| self.words.is(*set, word)) {
                        self.applied(plan);
                        return Ok(Commit::Done);
                    }
                    plan.draw_words();
                }
                Transacted::Unclear(said) => {
                    self.unclear.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(said, "the answer to a commit was lost; its end is looked for");
                    if seen.is_some() {
                        return self.settle(plan).map_err(unclear);
                    }
                    // Without a condition it may be applied twice.
                    was_unclear = true;
                }
            }
        }
        Err(StoreError::Conflict { room_id: plan.names() })
    }

    /// Finds out whether a conditional commit was applied; if it was not, makes sure that it never is.
    fn settle(&self, plan: CommitPlan) -> Result<Commit, StoreError> {
        if let Some((key, _)) = &plan.condition {
            let stored = self.read(key)?;
            let ours = plan.of_store.iter().find(|(it, _)| it == key);
            let is_applied = ours.is_some_and(|(_, it)| it.is_some() && *it == stored);
            return Ok(if is_applied { Commit::Done } else { Commit::Conflict });
        }
        let Some(change) = plan.rooms.first() else { return Ok(Commit::Conflict) };
        let (uuid, ours) = (change.uuid, change.row.stamp);
        for _ in 0..MAX_TRIES {
            let sql = "select stamp from room where room = $1";
            let read = Statement::new(sql, vec![Param::Uuid(uuid)]);
            let rows = self.database.select(read)?.rows;
            let stored = rows.first().map(|it| column::<i64>(it, 0)).transpose()?;
            let fence = match (stored, change.guard) {
                (Some(stamp), _) if stamp == ours => {
                    self.applied(plan);
                    return Ok(Commit::Done);
                }
                // The commit may still be on its way.
                (Some(stamp), Guard::Stamp(before)) if stamp == before => {
                    set_stamp(uuid, before, random())
                }
                (None, Guard::NoRow) => insert_room(uuid, &vacant(&change.row)),
                _ => return Ok(Commit::Conflict),
            };
            if self.database.transact(vec![fence])? == Transacted::Done {
                return Ok(Commit::Conflict);
            }
        }
        Err(StoreError::Conflict { room_id: plan.names() })
    }

    /// Sorts changes by the room, and says what becomes of the row of each.
    fn plan(
        &self,
        seen: Option<&Seen>,
        changes: Changes,
        effect: Effect,
    ) -> Result<CommitPlan, StoreError> {
        let mut rooms: BTreeMap<RoomUuid, Pending> = BTreeMap::new();
        let mut of_store = Vec::new();
        for (key, value) in changes {
            match keys::scope(&key) {
                Scope::Everything | Scope::AllRooms { .. } => {
                    return Err(StoreError::Bug("a record has a prefix for its key"));
                }
                Scope::Store => of_store.push((key, value)),
                Scope::RoomNumbers(name) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    let number = FoundNum::of(&key, value.as_deref())?;
                    let pending = rooms.entry(uuid_of(name.as_bytes())).or_default();
                    if let FoundNum::Held(number) = number {
                        pending.known = Some(self.known(number)?);
                    }
                    pending.number = Some(number);
                    pending.name = Some(name);
                }
                Scope::Room { room, .. } => {
                    let known = self.known(room)?;
                    let pending = rooms.entry(known.uuid).or_default();
                    if keys::is_room(&key) {
                        let row =
                            |it: StoredValue| layout::value_to_row(&key, known.uuid, &it).into();
                        pending.value = Some(value.map(row));
                    } else {
                        pending.records.push((key, value));
                    }
                    pending.known = Some(known);
                }
            }
        }
        let rooms = rooms.into_iter().map(|(uuid, it)| it.into_change(uuid, seen, effect));
        let rooms = rooms.collect::<Result<Vec<_>, _>>()?;
        let sets = Set::ALL.into_iter().filter(|set| {
            of_store.iter().any(|(key, _): &(Vec<u8>, _)| key.first() == Some(&set.tag()))
        });
        let words = sets.map(|it| (it, Vec::new())).collect();
        let of_whole_store = |it: &&Seen| keys::scope(&it.key) == Scope::Store;
        let condition = seen.filter(of_whole_store).map(|it| (it.key.clone(), it.value.clone()));
        let mut plan = CommitPlan { rooms, of_store, words, condition };
        plan.draw_words();
        Ok(plan)
    }

    /// Takes note of a commit that was applied.
    fn applied(&self, plan: CommitPlan) {
        for change in plan.rooms {
            let RoomChange { uuid, known, guard, row, records, .. } = change;
            let is_vacant = row.value.is_none() && !row.is_gone;
            if let Some(known) = known {
                let change = |tick| {
                    for (key, value) in &records {
                        self.records.change(tick, key, value.as_ref());
                    }
                };
                match guard {
                    Guard::NoRow => self.rooms.committed(&known, None, row, change),
                    Guard::Stamp(before) => {
                        self.rooms.committed(&known, Some(before), row, change);
                    }
                    Guard::Made(_) => self.rooms.changed_unseen(&known, row),
                }
            }
            if is_vacant {
                self.rooms.forget_now(uuid);
            }
        }
        for (set, word) in plan.words {
            self.words.changed(set, word);
        }
    }
}

/// What changes of one room were found.
#[derive(Default)]
struct Pending {
    known: Option<Arc<KnownRoom>>,
    name: Option<String>,
    /// What the id of the room maps to from now on; `None` if that does not change.
    number: Option<FoundNum>,
    /// The change of the record of the room, as the database keeps it.
    value: Option<Option<StoredValue>>,
    records: Vec<(Vec<u8>, Option<StoredValue>)>,
}

impl Pending {
    fn into_change(
        self,
        uuid: RoomUuid,
        seen: Option<&Seen>,
        effect: Effect,
    ) -> Result<RoomChange, StoreError> {
        let Self { known, name, number, value, records } = self;
        let before = known.as_ref().and_then(|it| it.row());
        let guard = match (seen, &before) {
            (Some(Seen { stamp: Some(stamp), .. }), _) => Guard::Stamp(*stamp),
            (Some(Seen { stamp: None, .. }), _) => Guard::NoRow,
            (None, Some(row)) => Guard::Made(row.made),
            (None, None) => return Err(StoreError::Bug("a room is changed before it is made")),
        };
        let is_made = before.is_none();
        let old = before.unwrap_or_else(|| RoomRow {
            stamp: 0,
            life: random(),
            made: random(),
            name: name.unwrap_or_default(),
            is_gone: false,
            value: None,
        });
        let life = match effect {
            Effect::Adds => old.life,
            Effect::Replaces => random(),
        };
        let written = WrittenColumns {
            life: is_made || effect == Effect::Replaces,
            made: is_made,
            gone: is_made || number.is_some(),
            value: is_made || value.is_some(),
        };
        let is_gone = number.map_or(old.is_gone, |it| it == FoundNum::Deleted);
        let value = value.unwrap_or(old.value);
        let (made, name) = (old.made, old.name);
        let row = RoomRow { stamp: random(), life, made, name, is_gone, value };
        Ok(RoomChange { uuid, known, guard, row, written, records })
    }
}

impl CommitPlan {
    /// The statements of the transaction.
    fn statements(&self, engine: &Postgres) -> Vec<Statement> {
        let mut statements = Vec::new();
        for change in &self.rooms {
            change.add_row(&mut statements);
        }
        for change in &self.rooms {
            change.add_records(&mut statements);
        }
        for (set, word) in &self.words {
            statements.push(engine.words.change(*set, word));
        }
        let (mut written, mut removed) = (Vec::new(), Vec::new());
        for (key, value) in &self.of_store {
            match (&self.condition, value) {
                (Some((on, before)), Some(value)) if on == key => {
                    statements.extend(conditional(key, before.as_ref(), value));
                }
                (_, Some(value)) => {
                    written.push(Written { key: key.clone(), value: value.to_vec() });
                }
                (_, None) => removed.push(key.clone()),
            }
        }
        statements.extend(written.chunks(ROWS_PER_STATEMENT).map(upsert_of_store));
        if !removed.is_empty() {
            let sql = "delete from store_word where key = any($1)";
            statements.push(Statement::new(sql, vec![Param::ManyBytes(removed)]));
        }
        statements
    }

    /// Gives each set that changes a new random word.
    fn draw_words(&mut self) {
        for (_, word) in &mut self.words {
            *word = random().to_be_bytes().to_vec();
        }
    }

    /// The ids of the rooms.
    fn names(&self) -> String {
        let names: Vec<&str> = self.rooms.iter().map(|it| it.row.name.as_str()).collect();
        names.join(", ")
    }

    /// A room was deleted or made again meanwhile.
    fn gone(&self) -> StoreError {
        let number =
            self.rooms.iter().find_map(|it| it.known.as_ref()).map_or(RoomNum(0), |it| it.number);
        StoreError::missing("room", &keys::room(number))
    }
}

impl RoomChange {
    /// The change of the room's row, which fails if the guard does.
    fn add_row(&self, statements: &mut Vec<Statement>) {
        let RoomRow { stamp, life, made, is_gone, value, .. } = &self.row;
        let (column, expected) = match self.guard {
            Guard::NoRow => {
                statements.push(insert_room(self.uuid, &self.row));
                return;
            }
            Guard::Stamp(stamp) => ("stamp", stamp),
            Guard::Made(made) => ("made", made),
        };
        let mut params = vec![Param::Uuid(self.uuid), Param::Int8(expected), Param::Int8(*stamp)];
        let mut sets = format!("stamp = case when {column} = $2 then $3::bigint end");
        let mut set = |name: &str, param: Param| {
            params.push(param);
            sets.push_str(&format!(", {name} = ${}", params.len()));
        };
        let written = self.written;
        if written.life {
            set("life", Param::Int8(*life));
        }
        if written.made {
            set("made", Param::Int8(*made));
        }
        if written.gone {
            set("gone", Param::Bool(*is_gone));
        }
        if written.value {
            set("value", Param::Bytes(value.as_ref().map(|it| it.to_vec())));
        }
        statements.push(Statement::new(format!("update room set {sets} where room = $1"), params));
        // The row may be lost, with all that the room had: then this divides by zero.
        let sql = "select 1 / count(*) from room where room = $1 and stamp = $2";
        let params = vec![Param::Uuid(self.uuid), Param::Int8(*stamp)];
        statements.push(Statement::new(sql, params));
    }

    /// The changes of the room's other records.
    fn add_records(&self, statements: &mut Vec<Statement>) {
        let mut written: BTreeMap<Table, Vec<Written>> = BTreeMap::new();
        let mut removed: BTreeMap<Table, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, value) in &self.records {
            let tag = key.first().copied().unwrap_or_default();
            let row = layout::row_key(tag, key.get(5..).unwrap_or_default());
            match value {
                Some(value) => {
                    let value = layout::value_to_row(key, self.uuid, value);
                    written.entry(row.table).or_default().push(Written { key: row.key, value });
                }
                None => removed.entry(row.table).or_default().push(row.key),
            }
        }
        for (table, keys) in removed {
            let sql = format!("delete from {} where room = $1 and key = any($2)", table.name());
            let params = vec![Param::Uuid(self.uuid), Param::ManyBytes(keys)];
            statements.push(Statement::new(sql, params));
        }
        for (table, rows) in written {
            for rows in rows.chunks(ROWS_PER_STATEMENT) {
                statements.push(upsert(table, self.uuid, rows));
            }
        }
    }
}

/// The row of a room that is not held and may be made.
fn vacant(row: &RoomRow) -> RoomRow {
    RoomRow {
        stamp: random(),
        life: random(),
        made: random(),
        name: row.name.clone(),
        is_gone: false,
        value: None,
    }
}

/// The failure to find out what became of a commit.
fn unclear(failure: StoreError) -> StoreError {
    match failure {
        StoreError::Engine(EngineError::Away(said)) => EngineError::Unclear(said).into(),
        other => other,
    }
}

fn random() -> i64 {
    rand::random()
}
