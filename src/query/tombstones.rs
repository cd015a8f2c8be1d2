//! What outlives the records of rooms, so that a backup can restore it: tombstones of deleted rooms,
//! users who requested erasure, and rooms that are not served. For internal callers.

use super::{
    QueryError, Question,
    admission::find_internal,
    paging::{AnswerSpace, IdList, PageRequest},
};
use crate::{
    context::Context,
    deadline::Deadline,
    state::map::{self, MapKey},
    store::{RoomNotServed, View as _},
};

/// The most rooms or users that are looked at for one page.
const MAX_PAGE: u32 = 10_000;
/// The rooms or users of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 1_000;

/// Asks for the rooms that were deleted and may not return, in the order of their ids.
#[derive(Clone, Debug)]
pub struct ListDeletedRooms {
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListDeletedRooms {
    type Answer = IdList;

    fn room_id(&self) -> Option<&str> {
        None
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<IdList, QueryError> {
        let token = self.page.token.as_str();
        let after = (!token.is_empty()).then_some(token);
        let page = cx.store.buried_rooms(after, self.page.size(DEFAULT_PAGE, MAX_PAGE))?;
        Ok(IdList { ids: page.room_ids, next_page_token: page.next.unwrap_or_default() })
    }
}

/// Asks for the users who requested erasure, in the order of their ids.
#[derive(Clone, Debug)]
pub struct ListErasedUsers {
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListErasedUsers {
    type Answer = IdList;

    fn room_id(&self) -> Option<&str> {
        None
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<IdList, QueryError> {
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let users = cx.store.erased_users(&self.page.token, size);
        let looked_at = users.len();
        let mut space = AnswerSpace::default();
        let ids: Vec<String> = users.into_iter().take_while(|it| space.take(it.len())).collect();
        let is_cut = ids.len() < looked_at || looked_at >= size;
        let last = ids.last().filter(|_| is_cut).cloned();
        Ok(IdList { ids, next_page_token: last.unwrap_or_default() })
    }
}

/// A page of rooms that are not served to other servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomsNotServedList {
    /// The rooms, by their ids.
    pub rooms: Vec<RoomNotServed>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the rooms that are not served to other servers, in the order of their ids. Rooms in
/// which something is being derived again are not listed.
#[derive(Clone, Debug)]
pub struct ListRoomsNotServed {
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListRoomsNotServed {
    type Answer = RoomsNotServedList;

    fn room_id(&self) -> Option<&str> {
        None
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<RoomsNotServedList, QueryError> {
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let mut rooms = cx.store.rooms_not_served(&self.page.token, size);
        let looked_at = rooms.len();
        let mut space = AnswerSpace::default();
        let fitting = rooms.iter().take_while(|it| space.take(it.room_id.len())).count();
        rooms.truncate(fitting);
        let is_cut = fitting < looked_at || looked_at >= size;
        let last = rooms.last().filter(|_| is_cut).map(|it| it.room_id.clone());
        Ok(RoomsNotServedList { rooms, next_page_token: last.unwrap_or_default() })
    }
}

/// Asks for the users who requested erasure and are in the current state of a room. The list is
/// empty if the current state is not known.
#[derive(Clone, Debug)]
pub struct ListErasedMembers {
    /// The id of the room.
    pub room_id: String,
    /// The part of the list. Its size counts erased users, whether or not they are in the room.
    pub page: PageRequest,
}

impl Question for ListErasedMembers {
    type Answer = IdList;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<IdList, QueryError> {
        let room = find_internal(&cx.store, &self.room_id)?;
        let Some(current) = room.record.current_state else { return Ok(IdList::default()) };
        let states = cx.store.states(room.number);
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let users = cx.store.erased_users(&self.page.token, size);
        let mut is_cut = users.len() >= size;
        let mut list = IdList::default();
        let mut space = AnswerSpace::default();
        let mut last = None;
        for user in users {
            let key = MapKey::of_state("m.room.member", &user);
            if map::get(&states, current.root(), key)?.is_some() {
                if !space.take(user.len()) {
                    is_cut = true;
                    break;
                }
                list.ids.push(user.clone());
            }
            last = Some(user);
        }
        list.next_page_token = last.filter(|_| is_cut).unwrap_or_default();
        Ok(list)
    }
}
