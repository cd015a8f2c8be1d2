//! Rooms of any shape and size: valid, hashed and signed, the same ones at each run.

use backscroll::pdu::{Pdu, RoomVersion};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId,
    canonical_json::{redact, to_canonical_value},
};
use serde_json::{Value, json};

use crate::builder::{Draft, Event, Room};

/// Our own homeserver.
pub(crate) const OURS: &str = "ours.example";
/// The server that asks.
pub(crate) const ASKING: &str = "asking.example";
/// The key that both sign with.
pub(crate) const KEY_ID: &str = "ed25519:1";

/// How many events follow the members of a room whose point is its members.
const MESSAGES_AFTER_MEMBERS: usize = 300;
/// How many branches a braid has, each of them following all of them.
const STRANDS: usize = 10;

/// What a room looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Messages in a straight line.
    Line,
    /// Ten messages beside each other, each of which follows the ten before.
    Braid,
    /// Messages of 60 KiB in a straight line.
    Large,
    /// Many members of as many servers, whose history only members may read.
    Members,
}

/// A room to be made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// Messages; of a room of members, members.
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

/// The key of both servers.
pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A server's answer to `/_matrix/key/v2/server`.
pub(crate) fn key_answer(server: &str) -> Value {
    let key = STANDARD_NO_PAD.encode(signing_key().verifying_key().as_bytes());
    let answer = json!({
        "server_name": server, "valid_until_ts": 9_000_000_000_000_u64,
        "verify_keys": {KEY_ID: {"key": key}}, "old_verify_keys": {},
    });
    let canonical = to_canonical_value(answer).expect("canonical JSON");
    let signature = signature(&canonical.to_string());
    let mut answer = serde_json::to_value(canonical).expect("JSON");
    if let Some(members) = answer.as_object_mut() {
        members.insert("signatures".to_owned(), json!({server: {KEY_ID: signature}}));
    }
    answer
}

fn signature(text: &str) -> String {
    STANDARD_NO_PAD.encode(signing_key().sign(text.as_bytes()).to_bytes())
}

/// Numbers that look random and are the same at each run (splitmix64).
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Less than `below`.
    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let below = u64::try_from(below.max(1)).unwrap_or(1);
        usize::try_from(mixed % below).unwrap_or(0)
    }
}

/// Makes a room, and hands each of its events over as it is made.
pub(crate) fn make(plan: &Plan, seed: u64, taken: &mut dyn FnMut(&Room, &str)) -> Made {
    let creator = format!("@creator:{OURS}");
    let (room, create) = Room::named(RoomVersion::V10, &creator, &plan.name);
    let made =
        Made { room_id: room.room_id.clone(), messages: Vec::new(), events: 0, json_bytes: 0 };
    let mut hand = Hand { room: &room, made, taken, ends: Vec::new(), auth: Vec::new() };
    let create = hand.give(&create);
    hand.ends = vec![create];
    let asking = format!("@user:{ASKING}");
    let visibility = if plan.shape == Shape::Members { "joined" } else { "shared" };
    let join = |user: &str| room.member(user, user, "join");
    let users = json!({&creator: 100});
    let basics = [
        join(&creator),
        room.state(&creator, "m.room.power_levels", "", json!({"users": users})),
        room.state(&creator, "m.room.join_rules", "", json!({"join_rule": "public"})),
        room.state(
            &creator,
            "m.room.history_visibility",
            "",
            json!({"history_visibility": visibility}),
        ),
        room.state(&creator, "m.room.server_acl", "", json!({"allow": ["*"]})),
        join(&asking),
    ];
    for draft in basics {
        let event = hand.next(draft);
        hand.auth.push(event.event_id.clone());
        hand.ends = vec![event];
    }
    hand.auth.truncate(3);
    let mut dice = Dice(seed);
    if plan.shape == Shape::Members {
        for number in 2..plan.size {
            let user = format!("@user:server{number}.example");
            hand.ends = vec![hand.next(join(&user))];
        }
    }
    let (messages, words, at_once) = match plan.shape {
        Shape::Line => (plan.size, 6..40, 1),
        Shape::Braid => (plan.size, 6..40, STRANDS),
        Shape::Large => (plan.size, 9_000..9_001, 1),
        Shape::Members => (MESSAGES_AFTER_MEMBERS, 6..40, 1),
    };
    for _ in 0..messages / at_once {
        let mut beside = Vec::with_capacity(at_once);
        for _ in 0..at_once {
            let sender = if dice.roll(2) == 0 { &creator } else { &asking };
            let count = words.start + dice.roll(words.end - words.start);
            let event = hand.next(room.message(sender, &text(&mut dice, count)));
            hand.made.messages.push(event.event_id.clone());
            beside.push(event);
        }
        hand.ends = beside;
    }
    hand.made
}

/// Some words, as compressible as talk is.
fn text(dice: &mut Dice, words: usize) -> String {
    const SYLLABLES: [&str; 24] = [
        "an", "be", "cor", "da", "el", "fi", "gon", "ha", "in", "jo", "ka", "lu", "mer", "no",
        "or", "pa", "qui", "ra", "sen", "ta", "un", "va", "we", "zo",
    ];
    let mut text = String::new();
    for _ in 0..words {
        for _ in 0..=dice.roll(3) {
            text.push_str(SYLLABLES.get(dice.roll(SYLLABLES.len())).copied().unwrap_or_default());
        }
        text.push(' ');
    }
    text
}

/// A room's ends, and what is done with what is made.
struct Hand<'a> {
    room: &'a Room,
    made: Made,
    taken: &'a mut dyn FnMut(&Room, &str),
    ends: Vec<Event>,
    auth: Vec<String>,
}

impl Hand<'_> {
    fn next(&mut self, draft: Draft<'_>) -> Event {
        let draft = draft.after(&self.ends).authorised_by(self.auth.iter().cloned());
        self.give(&draft.finish())
    }

    /// Signs an event as its sender's server would, and hands it over.
    fn give(&mut self, event: &Event) -> Event {
        let value: Value = serde_json::from_str(&event.pdu).expect("JSON");
        let value = to_canonical_value(value).expect("canonical JSON");
        let CanonicalJsonValue::Object(mut object) = value else { unreachable!("an object") };
        let rules = RoomVersionId::V10.rules().expect("a known version");
        let mut signed: CanonicalJsonObject =
            redact(object.clone(), &rules.redaction, None).expect("an event");
        signed.remove("signatures");
        signed.remove("unsigned");
        let signature = signature(&CanonicalJsonValue::Object(signed).to_string());
        let pdu = Pdu::parse(event.pdu.as_bytes(), self.room.version).expect("an event");
        let server = pdu.sender_server();
        let signatures = json!({server.as_str(): {KEY_ID: signature}});
        let signatures = to_canonical_value(signatures).expect("canonical JSON");
        object.insert("signatures".to_owned(), signatures);
        let pdu = CanonicalJsonValue::Object(object).to_string();
        (self.taken)(self.room, &pdu);
        self.made.events += 1;
        self.made.json_bytes += u64::try_from(pdu.len()).unwrap_or(0);
        Event { pdu, ..event.clone() }
    }
}
