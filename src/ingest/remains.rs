//! Replaces the body of a redacted event by its redacted form, and keeps the few parts that deriving
//! needs although redaction removes them.
//!
//! Most of what is derived from an event survives redaction in all room versions: its place in the
//! graph, its type and state key, its membership, its history visibility, the power to redact. Two
//! things do not, and are kept beside the event as its *remains*:
//!
//! - the target of a redaction, in room versions 1 to 10. A redaction that is redacted itself stays in
//!   effect, and its note must be found when it is judged again or purged;
//! - members of the content that the authorisation rules read, so that states are resolved later as
//!   they are now: the `invite` and `notifications` levels, the server that authorised a join, and
//!   third-party invites, of which only the signed part is kept.
//!
//! Remains contain ids, keys, levels and signatures, no text that a user wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    pdu::{Event, EventId, Pdu},
    state::resolution::StateEvent,
    store::{Edit, EventNum, Remains, StoreError, View},
};

/// The members of an object, as text.
type ContentMembers = BTreeMap<String, Box<RawValue>>;

/// Remains as room files and the gRPC contract contain them.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redacts: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<ContentMembers>,
}

/// The remains of an event as a JSON object, for a copy of the event.
#[must_use]
pub fn kept_text(remains: &Remains) -> String {
    let content = remains.content.as_deref().and_then(|it| serde_json::from_str(it).ok());
    let kept = Kept { redacts: remains.redacts.clone(), content };
    serde_json::to_string(&kept).expect("an object of JSON texts can be written")
}

/// Stores the remains that a copy of a new event came with. Only members that are ever kept are taken,
/// and only beside the redacted form.
pub(super) fn restore(edit: &mut Edit<'_>, number: EventNum, kept: &str, event: &Event) {
    let Some(pdu) = event.pdu().filter(|_| !kept.is_empty()) else { return };
    let Ok(Kept { redacts, content }) = serde_json::from_str(kept) else { return };
    if !pdu.is_redacted_form() {
        return;
    }
    let takes_target = pdu.event_type() == "m.room.redaction" && pdu.redacts().is_none();
    let redacts = redacts.filter(|it| takes_target && EventId::parse(it).is_ok());
    let names = kept_names(pdu);
    let there = pdu.content();
    let content = content.map(|mut members| {
        members.retain(|name, _| names.contains(&name.as_str()) && !there.contains_key(name));
        members
    });
    let remains = Remains { redacts, content: text_of(content) };
    if !remains.is_empty() {
        edit.put_remains(number, &remains);
    }
}

/// Replaces the body of an event by its redacted form. Returns whether that removed anything.
pub(super) fn strip(edit: &mut Edit<'_>, event: EventNum, pdu: &Pdu) -> bool {
    let Ok(redacted) = pdu.redacted() else { return false };
    if redacted.bytes_as_received() == pdu.bytes_as_received() {
        return false;
    }
    keep(edit, event, pdu, &redacted);
    edit.put_body(event, pdu.event_id().as_str(), redacted.bytes_as_received());
    true
}

/// Keeps what deriving needs of an event beside its redacted form, which was stored in its place.
pub(super) fn keep(edit: &mut Edit<'_>, event: EventNum, whole: &Pdu, redacted: &Pdu) {
    let remains = remains(whole, redacted);
    if !remains.is_empty() {
        edit.put_remains(event, &remains);
    }
}

/// What stays of an event beside its redacted form.
fn remains(pdu: &Pdu, redacted: &Pdu) -> Remains {
    let redacts = pdu.redacts().filter(|_| redacted.redacts().is_none());
    let content = kept_content(pdu, redacted);
    Remains { redacts: redacts.map(|it| it.as_str().to_owned()), content: text_of(content) }
}

fn text_of(content: Option<ContentMembers>) -> Option<String> {
    content.filter(|it| !it.is_empty()).and_then(|it| serde_json::to_string(&it).ok())
}

/// The names of the members of an event's content that are kept; none if the event authorises no
/// others.
fn kept_names(pdu: &Pdu) -> &'static [&'static str] {
    if pdu.state_key().is_none() {
        return &[];
    }
    match pdu.event_type() {
        "m.room.power_levels" => &["invite", "notifications"],
        "m.room.member" => &["join_authorised_via_users_server", "third_party_invite"],
        "m.room.third_party_invite" => &["public_key", "public_keys"],
        _ => &[],
    }
}

/// The members of an event's content that authorisation rules read and the redacted form lacks;
/// `None` if the event is none that authorises others.
fn kept_content(pdu: &Pdu, redacted: &Pdu) -> Option<ContentMembers> {
    let names = kept_names(pdu);
    if names.is_empty() {
        return None;
    }
    let after = redacted.content();
    let mut content = content_of(pdu)?;
    content.retain(|name, _| names.contains(&name.as_str()) && !after.contains_key(name));
    if let Some(invite) = content.get_mut("third_party_invite") {
        *invite = signed_part(invite);
    }
    Some(content)
}

fn content_of(pdu: &Pdu) -> Option<ContentMembers> {
    #[derive(Deserialize)]
    struct WithContent {
        content: ContentMembers,
    }
    let WithContent { content } = serde_json::from_str(&pdu.canonical_json()).ok()?;
    Some(content)
}

/// The part of a third-party invite that rules read. A malformed invite becomes a number: it is
/// malformed as well.
fn signed_part(invite: &RawValue) -> Box<RawValue> {
    let members: Result<ContentMembers, _> = serde_json::from_str(invite.get());
    let signed = members.ok().map(|mut it| {
        it.retain(|name, _| name == "signed");
        it
    });
    let kept = match signed {
        Some(signed) => serde_json::value::to_raw_value(&signed),
        None => serde_json::value::to_raw_value(&0),
    };
    kept.expect("an object of JSON texts, or a number, can be written")
}

/// The id of the event that a redaction redacts, also if the content of the redaction was removed;
/// `None` if the event redacts none.
pub(super) fn redacts(
    edit: &Edit<'_>,
    event: EventNum,
    pdu: &Pdu,
) -> Result<Option<String>, StoreError> {
    if let Some(target) = pdu.redacts() {
        return Ok(Some(target.as_str().to_owned()));
    }
    if pdu.event_type() != "m.room.redaction" {
        return Ok(None);
    }
    Ok(edit.remains(edit.room_num(), event)?.and_then(|it| it.redacts))
}

/// Adds to a stored event what was kept of its removed content, for state resolution.
pub(super) fn complete(
    edit: &Edit<'_>,
    number: EventNum,
    mut event: StateEvent,
) -> Result<StateEvent, StoreError> {
    let Some(kept) = edit.remains(edit.room_num(), number)?.and_then(|it| it.content) else {
        return Ok(event);
    };
    let members: Result<ContentMembers, _> = serde_json::from_str(event.content.get());
    let kept: Result<ContentMembers, _> = serde_json::from_str(&kept);
    if let (Ok(mut members), Ok(kept)) = (members, kept) {
        for (name, value) in kept {
            members.entry(name).or_insert(value);
        }
        if let Ok(content) = serde_json::value::to_raw_value(&members) {
            event.content = content;
        }
    }
    Ok(event)
}
