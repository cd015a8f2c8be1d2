//! Rooms of any shape and size: valid, hashed and signed, the same at each run.

use backscroll_testkit::{Draft, Event, Random, Room, signing::Signer};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The homeserver that owns the history.
pub(crate) const OURS: &str = "ours.example";
/// The server that sends the federation requests.
pub(crate) const ASKING: &str = "asking.example";

/// How many messages follow the members in a room of shape [`Shape::Members`].
const MESSAGES_AFTER_MEMBERS: usize = 300;
/// The width of a braid: each message follows all messages of the row before.
const STRANDS: usize = 10;

/// What a room looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Messages in a straight line.
    Line,
    /// Rows of ten messages, each of which follows the ten messages of the row before.
    Braid,
    /// Messages of 60 KiB in a straight line.
    Large,
    /// Many members of as many servers, in a room whose history only members may read.
    Members,
}

/// A room to be made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// The number of messages; for [`Shape::Members`] the number of members.
    pub(crate) size: usize,
}

/// A room that was made.
pub(crate) struct Made {
    pub(crate) room_id: String,
    /// Ids of its messages, oldest first.
    pub(crate) messages: Vec<String>,
    pub(crate) events: u32,
    pub(crate) json_bytes: u64,
}

/// The identity of one of the two servers. Both have the same key.
pub(crate) fn signer(server_name: &str) -> Signer {
    Signer {
        server_name: server_name.to_owned(),
        key_id: "ed25519:1".to_owned(),
        key: SigningKey::from_bytes(&[7; 32]),
    }
}

/// Makes a room, and calls `sink` with each of its events, signed.
pub(crate) fn make(plan: &Plan, seed: u64, sink: &mut dyn FnMut(&Room, &str)) -> Made {
    let creator = format!("@creator:{OURS}");
    let (room, create) = Room::named("10", &creator, &plan.name);
    let made =
        Made { room_id: room.room_id.clone(), messages: Vec::new(), events: 0, json_bytes: 0 };
    let mut maker = Maker { room: &room, made, sink, ends: Vec::new(), auth: Vec::new() };
    maker.begin(&creator, plan.shape, &create);
    let mut random = Random::new(seed);
    if plan.shape == Shape::Members {
        for number in 2..plan.size {
            let user = format!("@user:server{number}.example");
            maker.ends = vec![maker.append(room.member(&user, &user, "join"))];
        }
    }
    let count = if plan.shape == Shape::Members { MESSAGES_AFTER_MEMBERS } else { plan.size };
    let width = if plan.shape == Shape::Braid { STRANDS } else { 1 };
    let asking = format!("@user:{ASKING}");
    for _ in 0..count / width {
        let mut row = Vec::with_capacity(width);
        for _ in 0..width {
            let sender = if random.index(2) == 0 { &creator } else { &asking };
            let words = if plan.shape == Shape::Large { 9_000 } else { 6 + random.index(34) };
            let event = maker.append(room.message(sender, &text(&mut random, words)));
            maker.made.messages.push(event.event_id.clone());
            row.push(event);
        }
        maker.ends = row;
    }
    maker.made
}

/// A text of a number of words, about as compressible as conversation.
fn text(random: &mut Random, words: usize) -> String {
    const SYLLABLES: [&str; 24] = [
        "an", "be", "cor", "da", "el", "fi", "gon", "ha", "in", "jo", "ka", "lu", "mer", "no",
        "or", "pa", "qui", "ra", "sen", "ta", "un", "va", "we", "zo",
    ];
    let mut text = String::new();
    for _ in 0..words {
        for _ in 0..=random.index(3) {
            text.push_str(
                SYLLABLES.get(random.index(SYLLABLES.len())).copied().unwrap_or_default(),
            );
        }
        text.push(' ');
    }
    text
}

/// A room that is being made.
struct Maker<'a> {
    room: &'a Room,
    made: Made,
    /// Receives each event.
    sink: &'a mut dyn FnMut(&Room, &str),
    /// The forward extremities: the next event follows all of them.
    ends: Vec<Event>,
    /// Ids of the events that authorise the next event.
    auth: Vec<String>,
}

impl Maker<'_> {
    /// Appends the first events: the create event, the room's rules, and one member of each server.
    fn begin(&mut self, creator: &str, shape: Shape, create: &Event) {
        self.ends = vec![self.sign(create)];
        let visibility = if shape == Shape::Members { "joined" } else { "shared" };
        let asking = format!("@user:{ASKING}");
        let room = self.room;
        let state = |kind: &str, content| room.state(creator, kind, "", content);
        let drafts = [
            room.member(creator, creator, "join"),
            state("m.room.power_levels", json!({"users": {creator: 100}})),
            state("m.room.join_rules", json!({"join_rule": "public"})),
            state("m.room.history_visibility", json!({"history_visibility": visibility})),
            state("m.room.server_acl", json!({"allow": ["*"]})),
            room.member(&asking, &asking, "join"),
        ];
        for draft in drafts {
            let event = self.append(draft);
            self.auth.push(event.event_id.clone());
            self.ends = vec![event];
        }
        self.auth.truncate(3);
    }

    /// Finishes an event after all ends of the room.
    fn append(&mut self, draft: Draft<'_>) -> Event {
        let draft = draft.after(&self.ends).authorised_by(self.auth.iter().cloned());
        self.sign(&draft.finish())
    }

    /// Signs an event as its sender's server does, and passes it to the sink.
    fn sign(&mut self, event: &Event) -> Event {
        let members: serde_json::Value = serde_json::from_str(&event.pdu).expect("JSON");
        let sender = members.get("sender").and_then(serde_json::Value::as_str).expect("a sender");
        let (_, server) = sender.split_once(':').expect("a user id");
        let pdu = signer(server).sign_event(&event.pdu, &self.room.version);
        (self.sink)(self.room, &pdu);
        self.made.events += 1;
        self.made.json_bytes += u64::try_from(pdu.len()).unwrap_or(0);
        Event { pdu, ..event.clone() }
    }
}
