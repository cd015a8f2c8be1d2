//! Verifies that the content of redacted events is noted for removal, and that it was removed in time.

use std::time::Duration;

use super::{FaultKind, VerifiedRoom};
use crate::{
    ingest,
    pdu::{Event, Pdu},
    store::{Edit, EventNode, EventNum, RedactedContent, RedactedSearch, StoreError},
};

/// The time after which content that is due counts as left behind.
const GRACE: Duration = Duration::from_hours(24);

impl VerifiedRoom<'_> {
    /// Verifies that an event which is redacted and has its content is noted, and not overdue.
    pub(super) fn content(
        &mut self,
        edit: &Edit<'_>,
        event: EventNum,
        node: &EventNode,
        read: &Event,
    ) -> Result<(), StoreError> {
        let Some(pdu) = read.pdu() else { return Ok(()) };
        let by_redaction = node.flags.redacted;
        let by_ban = ingest::is_redacted_by_ban(self.store, node.arrival, pdu);
        if !(by_redaction || by_ban)
            || pdu.redacted().is_ok_and(|it| it.bytes_as_received() == pdu.bytes_as_received())
        {
            return Ok(());
        }
        let event_id = pdu.event_id().as_str();
        match edit.content_since(event)? {
            Some(Some(since_ms)) if self.is_overdue(since_ms) => {
                self.fault(event_id, FaultKind::ContentOverdue(event.0))
            }
            None if self.is_searched(by_redaction, pdu)? => {
                self.fault(event_id, FaultKind::ContentNotNoted(event.0))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the search for events like this one has ended.
    fn is_searched(&self, by_redaction: bool, pdu: &Pdu) -> Result<bool, StoreError> {
        if by_redaction {
            return Ok(self.store.redacted_search()? == RedactedSearch::Done);
        }
        self.store.is_ban_searched(&self.room_id, pdu.sender().as_str())
    }

    fn is_overdue(&self, since_ms: u64) -> bool {
        let RedactedContent::RemovedAfter(kept_for) = self.store.redacted_content() else {
            return false;
        };
        let age = self.watch.now_ms().saturating_sub(since_ms);
        u128::from(age) > (kept_for + GRACE).as_millis()
    }
}
