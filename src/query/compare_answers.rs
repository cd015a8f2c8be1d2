//! Compares the homeserver's answer to a question of another server with ours. `comparison` explains
//! other events, by the rules of the walks; the rule that decided about an event explains another form
//! of it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{
    Asker, Backfill, GetMissingEvents, QueryError, Question, ServedEvent, ServedPage,
    admission::{FoundRoom, find_internal},
    form::FormDecider,
    servable::not_served,
};
use crate::{
    comparison::{
        AskedWalk, BothAnswers, DifferenceReason, KnownEvent, KnownEvents, Reasons, explain,
    },
    context::Context,
    deadline::Deadline,
    graph::{Position, WalkEnd},
    pdu::{Event, Pdu, RoomVersion, id_of_unreadable, redact_stored},
    store::{Body, EventNode, EventNum, Store, StoreError, View},
    visibility::{self, Form, Rule},
};

/// The most events of an answer of the homeserver.
const MAX_COMPARED: usize = 1_000;
/// The most events that a comparison names.
const MAX_NAMED: usize = 100;

/// A question that both answered.
#[derive(Clone, Debug)]
pub enum ComparedQuestion {
    /// A question for the events before some events.
    Backfill(Backfill),
    /// A question for the events between known events and newer ones.
    GetMissingEvents(GetMissingEvents),
}

/// Asks how the homeserver's answer to a question differs from ours, and why.
#[derive(Clone, Debug)]
pub struct CompareAnswers {
    /// The question that both answered.
    pub question: ComparedQuestion,
    /// The events of the homeserver's answer: a JSON array of PDUs.
    pub pdus: bytes::Bytes,
}

/// How two answers to the same question differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The reasons that explain all differences: none if there is no difference. `None` if at
    /// least one difference is not explained.
    pub reasons: Option<Reasons>,
    /// The events that only one answer has, and those of which they have different forms. At most 100.
    pub differences: Vec<EventDifference>,
}

/// An event that two answers do not have in the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDifference {
    /// The id of the event; empty if it cannot be computed.
    pub event_id: String,
    /// The SHA-256 of the form in our answer; `None` if our answer does not have the event.
    pub ours: Option<EventDigest>,
    /// The same for the homeserver's answer.
    pub theirs: Option<EventDigest>,
}

/// The SHA-256 of a PDU in canonical JSON, without `unsigned`.
pub type EventDigest = [u8; 32];

/// An event of the homeserver's answer.
struct TheirEvent {
    digest: EventDigest,
    room_id: Option<String>,
    prev_events: Vec<String>,
}

impl Question for CompareAnswers {
    type Answer = Comparison;

    fn room_id(&self) -> Option<&str> {
        match &self.question {
            ComparedQuestion::Backfill(it) => it.room_id(),
            ComparedQuestion::GetMissingEvents(it) => it.room_id(),
        }
    }

    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<Comparison, QueryError> {
        let (page, asker) = match &self.question {
            ComparedQuestion::Backfill(it) => (it.try_answer(cx, deadline)?, &it.asker),
            ComparedQuestion::GetMissingEvents(it) => (it.try_answer(cx, deadline)?, &it.asker),
        };
        let room = find_internal(&cx.store, self.room_id().unwrap_or_default())?;
        let raw: Vec<&RawValue> =
            serde_json::from_slice(&self.pdus).map_err(|_| QueryError::ComparisonInvalid)?;
        if raw.len() > MAX_COMPARED {
            return Err(QueryError::ComparisonInvalid);
        }
        let mut compared = Compared::new(&page, room.version, deadline)?;
        for pdu in raw {
            deadline.check()?;
            compared.add(pdu.get().as_bytes());
        }
        let evidence = Evidence { store: &cx.store, room: &room, asker, deadline };
        let reasons = evidence.reasons(self, &page, &compared)?;
        Ok(Comparison { reasons, differences: compared.differences() })
    }
}

/// Both answers, by event id.
struct Compared {
    version: RoomVersion,
    our_ids: Vec<String>,
    ours: BTreeMap<String, EventDigest>,
    their_ids: Vec<String>,
    theirs: BTreeMap<String, TheirEvent>,
    /// Events of the homeserver's answer whose ids cannot be computed.
    without_id: Vec<EventDigest>,
}

impl Compared {
    fn new(
        page: &ServedPage,
        version: RoomVersion,
        deadline: &Deadline,
    ) -> Result<Self, QueryError> {
        let mut ours = BTreeMap::new();
        for ServedEvent { event_id, pdu, .. } in &page.events {
            deadline.check()?;
            ours.insert(event_id.clone(), digest_of(pdu, version));
        }
        Ok(Self {
            version,
            our_ids: page.events.iter().map(|it| it.event_id.clone()).collect(),
            ours,
            their_ids: Vec::new(),
            theirs: BTreeMap::new(),
            without_id: Vec::new(),
        })
    }

    fn add(&mut self, pdu: &[u8]) {
        let (event_id, event) = match Pdu::parse(pdu, self.version) {
            Ok(read) => {
                let prev_events = read.prev_events().iter().map(ToString::to_string).collect();
                let room_id = Some(read.room_id().to_string());
                let digest = digest(read.canonical_json().as_bytes());
                (read.event_id().to_string(), TheirEvent { digest, room_id, prev_events })
            }
            Err(_) => {
                let digest = digest(pdu);
                let Some(event_id) = id_of_unreadable(pdu, self.version) else {
                    self.without_id.push(digest);
                    return;
                };
                let event = TheirEvent { digest, room_id: None, prev_events: Vec::new() };
                (event_id.to_string(), event)
            }
        };
        self.their_ids.push(event_id.clone());
        self.theirs.insert(event_id, event);
    }

    /// Whether both answers have the same events: as a list, or as a set.
    fn has_same_ids(&self, as_list: bool) -> bool {
        if as_list {
            return self.our_ids == self.their_ids;
        }
        self.our_ids.len() == self.their_ids.len() && self.ours.keys().eq(self.theirs.keys())
    }

    fn differences(&self) -> Vec<EventDifference> {
        let of_ours = self.ours.iter().map(|(event_id, digest)| EventDifference {
            event_id: event_id.clone(),
            ours: Some(*digest),
            theirs: self.theirs.get(event_id).map(|it| it.digest),
        });
        let only_theirs = self.theirs.iter().filter(|(id, _)| !self.ours.contains_key(*id));
        let of_theirs = only_theirs.map(|(event_id, event)| EventDifference {
            event_id: event_id.clone(),
            ours: None,
            theirs: Some(event.digest),
        });
        let without_id = self.without_id.iter().map(|digest| EventDifference {
            event_id: String::new(),
            ours: None,
            theirs: Some(*digest),
        });
        let all = of_ours.chain(of_theirs).chain(without_id);
        all.filter(|it| it.ours != it.theirs).take(MAX_NAMED).collect()
    }
}

/// Where the facts about the events of both answers are found.
struct Evidence<'a> {
    store: &'a Store,
    room: &'a FoundRoom,
    asker: &'a Asker,
    deadline: &'a Deadline,
}

impl Evidence<'_> {
    /// The reasons for all differences; `None` if one is not explained.
    fn reasons(
        &self,
        asked: &CompareAnswers,
        page: &ServedPage,
        compared: &Compared,
    ) -> Result<Option<Reasons>, QueryError> {
        if !compared.without_id.is_empty() {
            return Ok(None);
        }
        let mut reasons = Reasons::default();
        let walk = asked.walk();
        if !compared.has_same_ids(matches!(walk, AskedWalk::Back { .. })) {
            let look = |event_id: &str| self.known(event_id, &compared.theirs);
            let answers = BothAnswers {
                ours: &compared.our_ids,
                ours_ended_early: matches!(page.end, WalkEnd::Size | WalkEnd::Budget),
                theirs: &compared.their_ids,
            };
            let Some(found) = explain(walk, answers, &KnownEvents::new(&look))? else {
                return Ok(None);
            };
            reasons = reasons.union(found);
        }
        for (event_id, event) in &compared.theirs {
            let ours = page.events.iter().find(|it| it.event_id == *event_id);
            let found = match ours {
                Some(ours) => self.reason_for_form(ours, event.digest)?,
                None => self.reason_for_additional(event_id, event)?,
            };
            let Some(found) = found else { return Ok(None) };
            reasons = reasons.union(found);
        }
        Ok(Some(reasons))
    }

    /// What is known about an event, for the walks. An event that is not held is known if the homeserver
    /// returned it and it names another room.
    fn known(
        &self,
        event_id: &str,
        theirs: &BTreeMap<String, TheirEvent>,
    ) -> Result<Option<KnownEvent>, QueryError> {
        self.deadline.check()?;
        let Some((event, node)) = self.held(event_id)? else {
            let other = theirs
                .get(event_id)
                .filter(|it| it.room_id.as_ref().is_some_and(|it| *it != self.room.record.room_id));
            return Ok(other.map(|it| KnownEvent {
                position: Position { depth: 0, arrival: 0 },
                outlier: false,
                rejected: false,
                unservable: false,
                of_other_room: true,
                may_be_withheld: false,
                prev_events: it.prev_events.clone(),
            }));
        };
        let Body { event_id, pdu } = self.store.body(self.room.number, event)?;
        let damaged = |_| StoreError::corrupt("body", event_id.as_bytes());
        let read = Event::read(&pdu, self.room.version, &event_id).map_err(damaged)?;
        let is_hidden = !node.flags.outlier && not_served(&node).is_some();
        Ok(Some(KnownEvent {
            position: Position { depth: node.depth, arrival: node.arrival },
            outlier: node.flags.outlier,
            rejected: node.flags.rejected,
            unservable: is_hidden && !node.flags.rejected,
            of_other_room: false,
            may_be_withheld: self.may_be_withheld(&read)?,
            prev_events: read.prev_events().iter().map(ToString::to_string).collect(),
        }))
    }

    /// Whether an event is a redaction that the homeserver may have been unable to validate. It validates
    /// those of room version 3 and later whose sender has no power over others' events, when it reads
    /// them: by the target, which must be of a sender of the same server.
    fn may_be_withheld(&self, event: &Event) -> Result<bool, QueryError> {
        let Event::Readable(pdu) = event else { return Ok(false) };
        let validates_late = !matches!(self.room.version, RoomVersion::V1 | RoomVersion::V2);
        if pdu.event_type() != "m.room.redaction" || !validates_late {
            return Ok(false);
        }
        let Some(target) = pdu.redacts() else { return Ok(true) };
        let Some((target, node)) = self.held(target.as_str())? else { return Ok(true) };
        if node.flags.rejected || node.flags.unreadable {
            return Ok(true);
        }
        let body = self.store.body(self.room.number, target)?;
        let damaged = |_| StoreError::corrupt("body", body.event_id.as_bytes());
        let target = Pdu::parse(&body.pdu, self.room.version).map_err(damaged)?;
        Ok(target.sender_server() != pdu.sender_server())
    }

    fn held(&self, event_id: &str) -> Result<Option<(EventNum, EventNode)>, QueryError> {
        let Some(event) = self.store.event_num(self.room.number, event_id)? else {
            return Ok(None);
        };
        let node = self.store.topology(self.room.number).node(event)?;
        Ok(node.map(|node| (event, node)))
    }

    /// Why the homeserver's form of an event differs from ours; no reason if it is the same. `None` if
    /// that is not explained: only a redacted form in place of the whole event can be.
    fn reason_for_form(
        &self,
        ours: &ServedEvent,
        theirs: EventDigest,
    ) -> Result<Option<Reasons>, QueryError> {
        if digest_of(&ours.pdu, self.room.version) == theirs {
            return Ok(Some(Reasons::default()));
        }
        let is_redacted = digest_of_redacted(&ours.pdu, self.room.version) == Some(theirs);
        if ours.form != Form::Full || !is_redacted {
            return Ok(None);
        }
        let Some((_, node)) = self.held(&ours.event_id)? else { return Ok(None) };
        let facts = self.decider()?.facts(&node, &ours.pdu)?;
        let reason = match visibility::decide(facts) {
            Rule::VisibleBefore => Some(DifferenceReason::VisibleBefore),
            Rule::VisibleAfter if facts.sender_erased => Some(DifferenceReason::ErasedSender),
            _ => None,
        };
        Ok(reason.map(|it| Reasons::default().with(it)))
    }

    /// The same for an event that only the homeserver returns, compared with the form in which we would
    /// serve it. Of an event that is not placed in the graph, either form will do. An event that is
    /// not held is compared with nothing: the walks explain it, or do not.
    fn reason_for_additional(
        &self,
        event_id: &str,
        theirs: &TheirEvent,
    ) -> Result<Option<Reasons>, QueryError> {
        let nothing = Some(Reasons::default());
        let Some((event, node)) = self.held(event_id)? else { return Ok(nothing) };
        if node.flags.unreadable {
            return Ok(nothing);
        }
        let Body { event_id, pdu } = self.store.body(self.room.number, event)?;
        if node.flags.outlier {
            let version = self.room.version;
            let is_a_form = digest_of(&pdu, version) == theirs.digest
                || digest_of_redacted(&pdu, version) == Some(theirs.digest);
            return Ok(nothing.filter(|_| is_a_form));
        }
        let form = visibility::decide(self.decider()?.facts(&node, &pdu)?).form();
        let pdu = match form {
            Form::Full => pdu,
            Form::Redacted => redact_stored(&pdu, self.room.version)
                .map_err(|_| StoreError::corrupt("body", event_id.as_bytes()))?
                .into(),
        };
        self.reason_for_form(&ServedEvent { event_id, pdu, form }, theirs.digest)
    }

    fn decider(&self) -> Result<FormDecider<'_>, QueryError> {
        let origin = self.asker.origin().ok_or(QueryError::ComparisonInvalid)?;
        Ok(FormDecider::new(self.store, self.room, origin))
    }
}

impl CompareAnswers {
    fn walk(&self) -> AskedWalk<'_> {
        match &self.question {
            ComparedQuestion::Backfill(it) => {
                AskedWalk::Back { from: it.start(), limit: it.counted_limit() }
            }
            ComparedQuestion::GetMissingEvents(it) => AskedWalk::Missing {
                earliest: it.end(),
                latest: it.start(),
                limit: it.counted_limit(),
                min_depth: it.min_depth,
            },
        }
    }
}

fn digest(text: &[u8]) -> EventDigest {
    Sha256::digest(text).into()
}

/// The digest of an event; that of its bytes if it cannot be read.
fn digest_of(pdu: &[u8], version: RoomVersion) -> EventDigest {
    match Pdu::parse(pdu, version) {
        Ok(read) => digest(read.canonical_json().as_bytes()),
        Err(_) => digest(pdu),
    }
}

fn digest_of_redacted(pdu: &[u8], version: RoomVersion) -> Option<EventDigest> {
    let redacted = Pdu::parse(pdu, version).ok()?.redacted().ok()?;
    Some(digest(redacted.canonical_json().as_bytes()))
}
