//! Bans that redact what the banned user has sent to a room (MSC4293). All of them are held in memory,
//! since every event that is served from a room with such a ban asks for its sender.

use std::{collections::BTreeMap, ops::Bound};

use super::{
    Edit, EventNum, Store, StoreError, View,
    codec::{Decoder, Encoder, Malformed, add_checksum, strip_checksum},
    keys,
};
use crate::sync;

/// The bans that redact, by room id and by user id.
pub(super) type Bans = BTreeMap<String, BTreeMap<String, BanRedaction>>;

/// A user who is banned from a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BannedUser {
    /// The id of the room. The store need not hold the room.
    pub room_id: String,
    /// The id of the user.
    pub user_id: String,
}

/// A ban that redacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRedaction {
    /// The id of the event that bans the user. The store need not hold it.
    pub ban_event_id: String,
    /// Events that arrive at this number or later are not redacted; `None` if all are.
    pub before_arrival: Option<i64>,
}

/// The part of an event that decides whether a ban redacts it.
#[derive(Clone, Copy, Debug)]
pub struct SentEvent<'a> {
    /// The id of the event.
    pub event_id: &'a str,
    /// The type of the event.
    pub event_type: &'a str,
    /// The position in the room's order of arrival.
    pub arrival: i64,
}

impl BanRedaction {
    /// Whether the ban redacts an event of the banned user: any but the create event and the ban
    /// itself.
    #[must_use]
    pub fn redacts(&self, event: SentEvent<'_>) -> bool {
        event.event_type != "m.room.create"
            && event.event_id != self.ban_event_id
            && self.before_arrival.is_none_or(|before| event.arrival < before)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(&self.ban_event_id);
        out.byte(u8::from(self.before_arrival.is_some()));
        out.signed(self.before_arrival.unwrap_or(0));
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(bytes);
        let ban_event_id = from.text()?.to_owned();
        let is_bounded = match from.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        let before = from.signed()?;
        from.end()?;
        Ok(Self { ban_event_id, before_arrival: is_bounded.then_some(before) })
    }
}

/// How far the held events of a banned user were searched, so that their content is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanSearch {
    /// The room that is searched: see [`Store::room_mark`].
    pub room_mark: u64,
    /// The next event to look at.
    pub next: EventNum,
}

impl Store {
    /// The ban that redacts the events of a user in a room; `None` if there is none.
    pub fn ban_redaction(&self, room_id: &str, user_id: &str) -> Option<BanRedaction> {
        sync::read(&self.bans).get(room_id)?.get(user_id).cloned()
    }

    /// Whether a room has any ban that redacts.
    pub fn has_ban_redactions(&self, room_id: &str) -> bool {
        let bans = sync::read(&self.bans);
        !bans.is_empty() && bans.contains_key(room_id)
    }

    /// The bans that redact, by room id and user id, those after `after`, at most `limit`.
    pub fn ban_redactions(
        &self,
        after: Option<&BannedUser>,
        limit: usize,
    ) -> Vec<(BannedUser, BanRedaction)> {
        let bans = sync::read(&self.bans);
        let first_room = after.map_or("", |it| it.room_id.as_str());
        let rooms = bans.range::<str, _>((Bound::Included(first_room), Bound::Unbounded));
        let all = rooms.flat_map(|(room_id, users)| {
            users.iter().map(move |(user_id, ban)| {
                let (room_id, user_id) = (room_id.clone(), user_id.clone());
                (BannedUser { room_id, user_id }, ban)
            })
        });
        let all = all.filter(|(user, _)| after.is_none_or(|after| user > after));
        all.take(limit).map(|(user, ban)| (user, ban.clone())).collect()
    }

    /// Records a ban that redacts; `None` removes the record. It is on disk and in effect when this
    /// returns. The events that are held are to be searched from the first on, unless the same ban is
    /// recorded already.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_ban_redaction(
        &self,
        user: &BannedUser,
        ban: Option<&BanRedaction>,
    ) -> Result<(), StoreError> {
        self.learn_sets()?;
        let mut bans = sync::write(&self.bans);
        let held = bans.get(&user.room_id).and_then(|it| it.get(&user.user_id));
        if held != ban {
            let key = keys::ban_redaction(&user.room_id, &user.user_id);
            let search = keys::ban_search(&user.room_id, &user.user_id);
            let value = ban.map(|it| add_checksum(&key, it.encode()).into());
            let begin = ban.map(|_| add_checksum(&search, encode_search(None)).into());
            self.engine.put([(key, value), (search, begin)].into())?;
            insert(&mut bans, user, ban.cloned());
        }
        drop(bans);
        self.flush()
    }

    /// A ban whose held events are not all searched, and how far they were; `None` if there is none.
    /// The search has not begun if the second part is `None`.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn next_ban_search(&self) -> Result<Option<(BannedUser, Option<BanSearch>)>, StoreError> {
        self.learn_sets()?;
        let records = self.scan(&keys::ban_searches(), None, 1)?;
        let Some((key, value)) = records.first() else { return Ok(None) };
        let damaged = || StoreError::corrupt("search of a banned user's events", key);
        let search = strip_checksum(key, value).and_then(decode_search).map_err(|_| damaged())?;
        let (room_id, user_id) = keys::banned_user(key).ok_or_else(damaged)?;
        let (room_id, user_id) = (room_id.to_owned(), user_id.to_owned());
        Ok(Some((BannedUser { room_id, user_id }, search)))
    }

    /// Whether the held events of a banned user were all searched.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_ban_searched(&self, room_id: &str, user_id: &str) -> Result<bool, StoreError> {
        Ok(self.value(&keys::ban_search(room_id, user_id))?.is_none())
    }

    /// Records how far the held events of a banned user were searched; `None` when all were. Without
    /// a flush. Does nothing if the ban was removed meanwhile.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_ban_search(
        &self,
        user: &BannedUser,
        search: Option<BanSearch>,
    ) -> Result<(), StoreError> {
        let bans = sync::read(&self.bans);
        let is_held = bans.get(&user.room_id).is_some_and(|it| it.contains_key(&user.user_id));
        let key = keys::ban_search(&user.room_id, &user.user_id);
        let value = search.filter(|_| is_held);
        let value = value.map(|it| add_checksum(&key, encode_search(Some(it))).into());
        self.engine.put([(key, value)].into())
    }

    /// Reads all bans that redact into memory.
    pub(super) fn load_ban_redactions(&self) -> Result<(), StoreError> {
        // A change by this process waits, so that what it adds is not replaced.
        let mut held = sync::write(&self.bans);
        let mut bans = Bans::new();
        for (key, value) in self.scan(&keys::all_ban_redactions(), None, usize::MAX)? {
            let damaged = || StoreError::corrupt("ban that redacts", &key);
            let ban = strip_checksum(&key, &value).and_then(BanRedaction::decode);
            let ban = ban.map_err(|_| damaged())?;
            let (room_id, user_id) = keys::banned_user(&key).ok_or_else(damaged)?;
            let (room_id, user_id) = (room_id.to_owned(), user_id.to_owned());
            insert(&mut bans, &BannedUser { room_id, user_id }, Some(ban));
        }
        *held = bans;
        Ok(())
    }
}

impl Edit<'_> {
    /// The ban that redacts the events of a user in this room; `None` if there is none.
    #[must_use]
    pub fn ban_redaction(&self, user_id: &str) -> Option<BanRedaction> {
        self.store.ban_redaction(&self.room.room_id, user_id)
    }

    /// Whether the room has any ban that redacts.
    #[must_use]
    pub fn has_ban_redactions(&self) -> bool {
        self.store.has_ban_redactions(&self.room.room_id)
    }
}

fn insert(bans: &mut Bans, user: &BannedUser, ban: Option<BanRedaction>) {
    let BannedUser { room_id, user_id } = user;
    match ban {
        Some(ban) => {
            bans.entry(room_id.clone()).or_default().insert(user_id.clone(), ban);
        }
        None => {
            if let Some(users) = bans.get_mut(room_id) {
                users.remove(user_id);
                if users.is_empty() {
                    bans.remove(room_id);
                }
            }
        }
    }
}

fn encode_search(search: Option<BanSearch>) -> Vec<u8> {
    let mut out = Encoder::default();
    if let Some(BanSearch { room_mark, next }) = search {
        out.number(room_mark);
        out.number(next.0.into());
    }
    out.finish()
}

fn decode_search(bytes: &[u8]) -> Result<Option<BanSearch>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut from = Decoder(bytes);
    let search = BanSearch { room_mark: from.number()?, next: EventNum(from.small()?) };
    from.end()?;
    Ok(Some(search))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    fn user(room_id: &str, user_id: &str) -> BannedUser {
        BannedUser { room_id: room_id.to_owned(), user_id: user_id.to_owned() }
    }

    fn ban(before_arrival: Option<i64>) -> BanRedaction {
        BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival }
    }

    #[test]
    fn bans_are_kept_over_a_restart_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let users = [user("!a:b", "@x:b"), user("!a:b", "@y:b"), user("!c:d", "@x:b")];
        let store = Store::open(&Options::small(dir.path())).unwrap();
        for (user, before) in users.iter().zip([None, Some(-3), Some(i64::MAX)]) {
            store.set_ban_redaction(user, Some(&ban(before))).unwrap();
        }
        store.set_ban_redaction(&users[1], None).unwrap();
        drop(store);
        let store = Store::open(&Options::small(dir.path())).unwrap();
        let expected = vec![(users[0].clone(), ban(None)), (users[2].clone(), ban(Some(i64::MAX)))];
        assert_eq!(store.ban_redactions(None, 9), expected);
        assert_eq!(store.ban_redactions(Some(&users[0]), 9), expected[1..]);
        assert_eq!(store.ban_redaction("!a:b", "@y:b"), None);
        assert!(store.has_ban_redactions("!a:b") && !store.has_ban_redactions("!a:"));
    }

    #[test]
    fn a_search_is_continued_and_begins_again_with_another_ban() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::small(dir.path())).unwrap();
        let user = user("!a:b", "@x:b");
        store.set_ban_redaction(&user, Some(&ban(None))).unwrap();
        assert_eq!(store.next_ban_search().unwrap(), Some((user.clone(), None)));
        let search = BanSearch { room_mark: 3, next: EventNum(64) };
        store.put_ban_search(&user, Some(search)).unwrap();
        store.set_ban_redaction(&user, Some(&ban(None))).unwrap();
        assert_eq!(store.next_ban_search().unwrap(), Some((user.clone(), Some(search))));
        store.set_ban_redaction(&user, Some(&ban(Some(5)))).unwrap();
        assert_eq!(store.next_ban_search().unwrap(), Some((user.clone(), None)));
        store.set_ban_redaction(&user, None).unwrap();
        store.put_ban_search(&user, Some(search)).unwrap();
        assert_eq!(store.next_ban_search().unwrap(), None);
    }

    #[test]
    fn the_create_event_the_ban_and_later_events_are_not_redacted() {
        let event = |event_id, event_type, arrival| SentEvent { event_id, event_type, arrival };
        let ban = ban(Some(7));
        assert!(ban.redacts(event("$1", "m.room.message", 6)));
        assert!(!ban.redacts(event("$1", "m.room.message", 7)));
        assert!(!ban.redacts(event("$1", "m.room.create", 6)));
        assert!(!ban.redacts(event("$ban", "m.room.member", 6)));
    }
}
