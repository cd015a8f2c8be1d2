//! Random rooms: three servers whose users join and leave, changing visibilities and access control lists,
//! redactions, forks and merges, gaps, outliers, and events that were not accepted.

use backscroll::{
    ingest::{NewEvent, Verdict},
    pdu::RoomVersion,
};
use backscroll_testkit::{Draft, Event, Room};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use serde_json::{Value, json};

use super::{
    events::{DraftExt as _, RoomExt as _},
    model::{Model, ToAppend},
};

/// All users. The first creates the room.
pub(crate) const USERS: [&str; 6] = [
    "@alice:one.example",
    "@anne:one.example",
    "@bob:two.example",
    "@bill:two.example",
    "@carol:three.example",
    "@chris:three.example",
];
/// All servers, and one that is never in the room.
pub(crate) const SERVERS: [&str; 4] = ["one.example", "two.example", "three.example", "no.example"];

/// The content of one step.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Message,
    Member(usize, &'static str),
    Visibility(&'static str),
    /// An access control list that denies the server of this index; no server if it is out of range.
    Acl(usize),
    /// Power levels that allow the user of this index to redact, besides the first user.
    Power(usize),
    /// A redaction of an earlier event: this number of events before.
    Redaction(usize),
}

/// A member of an event, and a value that breaks the format.
type FormatBreak = (&'static str, fn() -> Value);

/// Ways to break the format of every room version.
const FORMAT_BREAKS: [FormatBreak; 6] = [
    ("depth", || json!(-1)),
    ("content", || json!("no object")),
    ("sender", || json!(7)),
    ("signatures", || json!([])),
    ("hashes", || json!({})),
    ("origin_server_ts", || Value::Null),
];

/// How an event is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    Rejected,
    SoftFailed,
    /// The event is never appended.
    Lost,
    /// The event is appended with the state after it.
    WithState,
    /// The event is appended, and the state after it is given later.
    StateLater,
    /// The event is appended as an outlier only.
    Outlier,
    /// The event is appended as an outlier first.
    OutlierFirst,
}

/// One step of a room's history.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    what: What,
    sender: usize,
    /// The distances of the predecessors; 0 is the event before.
    after: Vec<usize>,
    fate: Fate,
    /// The index of the way in which it breaks the format; `None` if it does not.
    unreadable: Option<usize>,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let user = 0..USERS.len();
    let what = prop_oneof![
        6 => Just(What::Message),
        6 => (user.clone(), prop::sample::select(vec!["join", "join", "leave", "ban", "invite"]))
            .prop_map(|(user, membership)| What::Member(user, membership)),
        3 => prop::sample::select(vec!["joined", "invited", "shared", "world_readable", "?"])
            .prop_map(What::Visibility),
        1 => (1..SERVERS.len()).prop_map(What::Acl),
        1 => user.clone().prop_map(What::Power),
        3 => (0usize..8).prop_map(What::Redaction),
    ];
    let fate = prop_oneof![
        24 => Just(Fate::Accepted),
        2 => Just(Fate::Rejected),
        2 => Just(Fate::SoftFailed),
        1 => Just(Fate::Lost),
        2 => Just(Fate::WithState),
        1 => Just(Fate::StateLater),
        1 => Just(Fate::Outlier),
        1 => Just(Fate::OutlierFirst),
    ];
    let after = prop_oneof![
        6 => Just(vec![0]),
        2 => (0usize..4).prop_map(|it| vec![it]),
        3 => (1usize..4).prop_map(|it| vec![0, it]),
        1 => (1usize..4, 4usize..7).prop_map(|(one, other)| vec![one, 0, other]),
    ];
    let sender = prop_oneof![2 => Just(0), 3 => user];
    let unreadable = prop_oneof![12 => Just(None), 1 => (0..FORMAT_BREAKS.len()).prop_map(Some)];
    (what, sender, after, fate, unreadable).prop_map(|(what, sender, after, fate, unreadable)| {
        Step { what, sender, after, fate, unreadable }
    })
}

/// Generates steps, and the users who asked for erasure.
pub(crate) fn history(steps: usize) -> impl Strategy<Value = (Vec<Step>, Vec<usize>)> {
    let erased = prop_oneof![
        2 => Just(vec![]),
        1 => any::<prop::sample::Index>().prop_map(|it| vec![it.index(USERS.len())]),
    ];
    (prop::collection::vec(step(), 1..steps), erased)
}

/// An event as it is appended.
#[derive(Clone)]
pub(crate) struct Delivery {
    pub(crate) event: Event,
    pub(crate) verdict: Verdict,
    pub(crate) outlier: bool,
    pub(crate) given: Vec<String>,
    pub(crate) arrival: i64,
}

impl Step {
    fn plain(after: Vec<usize>, fate: Fate) -> Self {
        Self { what: What::Message, sender: 0, after, fate, unreadable: None }
    }
}

impl Delivery {
    pub(crate) fn to_append(&self) -> ToAppend<'_> {
        ToAppend {
            event_id: &self.event.event_id,
            pdu: &self.event.pdu,
            unreadable: self.event.unreadable,
            verdict: self.verdict,
            outlier: self.outlier,
            given: &self.given,
            arrival: self.arrival,
        }
    }

    pub(crate) fn new_event<'a>(&'a self, room: &'a Room) -> NewEvent<'a> {
        NewEvent {
            verdict: self.verdict,
            outlier: self.outlier,
            state_after: &self.given,
            arrival: Some(self.arrival),
            ..room.accepted(&self.event)
        }
    }
}

/// A room and the events that are appended, in order.
pub(crate) struct World {
    pub(crate) room: Room,
    pub(crate) deliveries: Vec<Delivery>,
}

impl World {
    pub(crate) fn new(version: RoomVersion, steps: &[Step]) -> Self {
        Self::named(version, steps, "room")
    }

    /// Makes a room with a name of its own.
    pub(crate) fn named(version: RoomVersion, steps: &[Step], name: &str) -> Self {
        let (room, create) = Room::named(version, USERS[0], name);
        let mut maker = Maker::new(&room, create);
        for step in steps {
            maker.step(step);
        }
        let deliveries = maker.deliveries();
        Self { room, deliveries }
    }

    /// Makes a room with every event of the steps, in order, each with the state after it.
    pub(crate) fn whole(version: RoomVersion, steps: &[Step]) -> Self {
        let (room, create) = Room::new(version, USERS[0]);
        let mut maker = Maker::new(&room, create);
        for step in steps {
            maker.step(step);
        }
        let all = &maker.all;
        let whole = (0..).zip(&maker.events).map(|(arrival, (event, fate))| Delivery {
            event: event.clone(),
            verdict: verdict(*fate),
            outlier: false,
            given: ids_after(all, event),
            arrival,
        });
        let deliveries = whole.collect();
        Self { room, deliveries }
    }
}

/// The ids of the state after an event.
fn ids_after(all: &Model, event: &Event) -> Vec<String> {
    let state = all.after(&event.event_id).unwrap_or_default();
    state.values().map(ToString::to_string).collect()
}

/// Makes the events of a room. It knows all of them, so each event names those that authorise it.
struct Maker<'r> {
    room: &'r Room,
    all: Model,
    events: Vec<(Event, Fate)>,
}

impl<'r> Maker<'r> {
    fn new(room: &'r Room, create: Event) -> Self {
        let all = Model::new(room.known_version(), &room.room_id);
        let mut maker = Self { room, all, events: Vec::new() };
        maker.keep(create, Fate::Accepted);
        let [alice, _, bob, ..] = USERS;
        let rules = json!({"join_rule": "public"});
        let begin = |maker: &mut Self, draft: Draft<'r>, sender, key: Option<&str>| {
            let step = Step::plain(vec![0], Fate::Accepted);
            maker.place(draft, sender, key, &step);
        };
        begin(&mut maker, room.member(alice, alice, "join"), alice, Some(alice));
        let levels = maker.levels(bob);
        begin(&mut maker, room.state(alice, "m.room.power_levels", "", levels), alice, None);
        begin(&mut maker, room.state(alice, "m.room.join_rules", "", rules), alice, None);
        begin(&mut maker, room.member(bob, bob, "join"), bob, Some(bob));
        maker
    }

    fn levels(&self, user: &str) -> Value {
        // From room version 12 on, a creator has no power level: it is above all levels.
        let first = (self.room.known_version() != RoomVersion::V12).then_some((USERS[0], 100));
        let users: serde_json::Map<String, Value> = first
            .into_iter()
            .chain([(user, 50)])
            .map(|(it, level)| (it.into(), level.into()))
            .collect();
        json!({"users": users, "state_default": 0, "redact": 50})
    }

    fn step(&mut self, step: &Step) {
        let Step { what, sender, .. } = step;
        let mut sender = USERS[*sender];
        let mut target = None;
        let draft = match what {
            What::Message => self.room.message(sender, "what was said"),
            What::Member(user, membership) => {
                target = Some(USERS[*user]);
                // Only the user itself can join or leave.
                if matches!(*membership, "join" | "leave") {
                    sender = USERS[*user];
                }
                self.room.member(sender, USERS[*user], membership)
            }
            What::Visibility(visibility) => {
                let content = json!({"history_visibility": visibility});
                self.room.state(sender, "m.room.history_visibility", "", content)
            }
            What::Acl(denied) => {
                let content = json!({"allow": ["*"], "deny": [SERVERS[*denied]]});
                self.room.state(sender, "m.room.server_acl", "", content)
            }
            What::Power(user) => {
                sender = USERS[0];
                self.room.state(sender, "m.room.power_levels", "", self.levels(USERS[*user]))
            }
            What::Redaction(back) => {
                let at = self.events.len().saturating_sub(1 + back);
                let target = self.events[at].0.event_id.clone();
                self.room.redaction(sender, &target)
            }
        };
        self.place(draft, sender, target, step);
    }

    fn place(
        &mut self,
        draft: Draft<'_>,
        sender: &str,
        target: Option<&str>,
        Step { after, fate, unreadable, .. }: &Step,
    ) {
        let last = self.events.len() - 1;
        let mut places: Vec<usize> = after.iter().map(|it| last.saturating_sub(*it)).collect();
        places.dedup();
        let before: Vec<Event> = places.iter().map(|it| self.events[*it].0.clone()).collect();
        // The authorising events are taken from the state before, of the first predecessor.
        let state = self.all.after(&before[0].event_id).unwrap_or_default();
        let needed = [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", sender),
            ("m.room.member", target.unwrap_or(sender)),
        ];
        let is_needed = |kind: &str, key: &str| {
            let is_named = kind == "m.room.create" && self.room.known_version() == RoomVersion::V12;
            needed.contains(&(kind, key)) && !is_named
        };
        let authority = state.iter().filter(|((kind, key), _)| is_needed(kind, key));
        let draft = draft.after(&before).authorised_by(authority.map(|(_, it)| it.to_string()));
        let event = match unreadable {
            None => draft.finish(),
            Some(unreadable) => {
                let (member, value) = FORMAT_BREAKS[*unreadable];
                draft.with(member, value()).unreadable(|it| it)
            }
        };
        self.keep(event, *fate);
    }

    fn keep(&mut self, event: Event, fate: Fate) {
        let arrival = i64::try_from(self.events.len()).unwrap();
        let to_append = ToAppend {
            event_id: &event.event_id,
            pdu: &event.pdu,
            unreadable: event.unreadable,
            verdict: verdict(fate),
            outlier: false,
            given: &[],
            arrival,
        };
        self.all.add(&to_append);
        self.events.push((event, fate));
    }

    /// The events to append. Events of a given state are appended at least as outliers.
    fn deliveries(mut self) -> Vec<Delivery> {
        for at in 0..self.events.len() {
            if matches!(self.events[at].1, Fate::WithState | Fate::StateLater) {
                let given = ids_after(&self.all, &self.events[at].0);
                for (event, fate) in &mut self.events {
                    if *fate == Fate::Lost && given.contains(&event.event_id) {
                        *fate = Fate::Outlier;
                    }
                }
            }
        }
        let (mut deliveries, mut later) = (Vec::new(), Vec::new());
        for (arrival, (event, fate)) in (0..).zip(&self.events) {
            let given = match fate {
                Fate::WithState | Fate::StateLater => ids_after(&self.all, event),
                _ => vec![],
            };
            let placed = Delivery {
                event: event.clone(),
                verdict: verdict(*fate),
                outlier: false,
                given,
                arrival,
            };
            let outlier = Delivery { verdict: Verdict::Accepted, outlier: true, ..placed.clone() };
            match fate {
                Fate::Lost => {}
                Fate::Outlier => deliveries.push(outlier),
                Fate::OutlierFirst => deliveries.extend([outlier, placed]),
                Fate::StateLater => {
                    deliveries.push(Delivery { given: vec![], ..placed.clone() });
                    later.push(placed);
                }
                _ => deliveries.push(placed),
            }
        }
        deliveries.extend(later);
        deliveries
    }
}

/// The homeserver's verdict on an event.
fn verdict(fate: Fate) -> Verdict {
    Verdict::of_flags(fate == Fate::Rejected, fate == Fate::SoftFailed)
}
