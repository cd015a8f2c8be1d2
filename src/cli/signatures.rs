//! Verifies the signatures of imported events by keys from a file. It only reports: the verdict of the
//! homeserver alone decides about an event.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;

use crate::{
    pdu::{KeyRing, Pdu, RoomVersion, SignatureCheck, verify_signatures},
    room_format::{Header, Line},
};

/// The keys from a file, by server.
pub(super) struct PinnedKeys(KeyRing);

impl PinnedKeys {
    /// Reads a file. Prints on standard error which entries are not usable.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = fs::read(path).with_context(|| name.to_string())?;
        let ring = KeyRing::parse(&bytes).with_context(|| name.to_string())?;
        for left_out in ring.left_out() {
            writeln!(io::stderr(), "{name}: not used: {left_out}")?;
        }
        Ok(Self(ring))
    }

    /// Which signature of an event is invalid by these keys, for people; `None` if no signature is, or
    /// if the event is unreadable.
    pub(super) fn fault(&self, header: &Header, line: &Line) -> Option<String> {
        let version = RoomVersion::parse(&header.room_version).ok()?;
        let pdu = Pdu::parse(line.pdu.get().as_bytes(), version).ok()?;
        match verify_signatures(&pdu, &|server, key_id| self.0.key(server, key_id)) {
            SignatureCheck::Valid | SignatureCheck::Unknown { .. } => None,
            SignatureCheck::Invalid { server, reason } => {
                Some(format!("{}: {server}: {reason}", pdu.event_id()))
            }
        }
    }
}
