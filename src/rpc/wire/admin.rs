//! The messages of `AdminService`.

use std::time::Duration;

use super::{brief, not_served_reason};
use crate::{
    proto::v1 as pb,
    query::{RoomsNotServedList, Sizes, Stats, UnknownRoom, WideRoom},
    slow_walks::{SlowWalk, WalkKind},
    store::RoomNotServed,
    verify::Fault,
};

pub(in crate::rpc) fn stats_response(stats: Stats) -> pb::StatsResponse {
    let Stats { durability, sizes, widest_rooms, slow_walks, unknown_rooms } = stats;
    let Sizes {
        rooms,
        events,
        forward_extremities,
        widest: _,
        gaps,
        waiting,
        store_bytes,
        free_bytes,
        unreadable,
        state_unknown,
        content_due,
        oldest_content_ms,
        not_served,
    } = sizes;
    pb::StatsResponse {
        room_count: rooms,
        event_count: events,
        unreadable_event_count: unreadable,
        forward_extremity_count: forward_extremities,
        gap_count: gaps,
        waiting_event_count: waiting,
        state_unknown_room_count: state_unknown,
        redacted_content_count: content_due,
        not_served_room_count: not_served,
        oldest_redacted_ts: oldest_content_ms.unwrap_or_default(),
        store_bytes,
        free_bytes,
        durability: durability.words().to_owned(),
        widest_rooms: widest_rooms.into_iter().map(wide_room).collect(),
        state_unknown_rooms: unknown_rooms.into_iter().map(state_unknown_room).collect(),
        slowest_walks: slow_walks.into_iter().map(slow_walk).collect(),
    }
}

pub(in crate::rpc) fn list_rooms_not_served_response(
    list: RoomsNotServedList,
) -> pb::ListRoomsNotServedResponse {
    let RoomsNotServedList { rooms, next_page_token } = list;
    let room = |RoomNotServed { room_id, reason }| pb::RoomNotServed {
        room_id,
        not_served_reason: not_served_reason(reason).into(),
    };
    let rooms = rooms.into_iter().map(room).collect();
    pb::ListRoomsNotServedResponse { rooms, next_page_token }
}

fn wide_room(room: WideRoom) -> pb::WideRoom {
    let WideRoom { room_id, forward_extremities, events } = room;
    pb::WideRoom { room_id, forward_extremity_count: forward_extremities, event_count: events }
}

fn state_unknown_room(room: UnknownRoom) -> pb::StateUnknownRoom {
    let UnknownRoom { room_id, is_answered, state_needed } = room;
    pb::StateUnknownRoom {
        room_id,
        uses_last_known_state: is_answered,
        state_needed_event_ids: state_needed,
    }
}

fn slow_walk(walk: SlowWalk) -> pb::SlowWalk {
    let SlowWalk { room_id, kind, origin, visited, took } = walk;
    let kind = match kind {
        WalkKind::Backfill => pb::WalkKind::Backfill,
        WalkKind::GetMissingEvents => pb::WalkKind::GetMissingEvents,
    };
    pb::SlowWalk {
        room_id,
        kind: kind.into(),
        origin: origin.unwrap_or_default(),
        visited_event_count: visited,
        duration: Some(duration(took)),
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("a walk takes less than 290 billion years")
}

pub(in crate::rpc) fn fault(fault: Fault) -> pb::Fault {
    let Fault { room_id, event_id, kind } = fault;
    pb::Fault { room_id, event_id, description: brief(kind.to_string()) }
}
