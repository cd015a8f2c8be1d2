//! What an import says of signatures, by keys that were pinned for it. It reports; whether an
//! event is taken is the homeserver's verdict alone.

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

/// Keys that were pinned for an import.
pub(super) struct PinnedKeys(KeyRing);

impl PinnedKeys {
    /// Reads a file, and names on standard error what in it is not used.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = fs::read(path).with_context(|| name.to_string())?;
        let ring = KeyRing::parse(&bytes).with_context(|| name.to_string())?;
        for left_out in ring.left_out() {
            writeln!(io::stderr(), "{name}: left out: {left_out}")?;
        }
        Ok(Self(ring))
    }

    /// What is wrong with the signatures of an event, as far as these keys can tell. Nothing of
    /// an event that cannot be read.
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
