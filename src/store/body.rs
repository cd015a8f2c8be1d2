//! Event bodies: the exact bytes, compressed with a dictionary of text that events have in common.
//!
//! The dictionary is part of the disk format. A new dictionary needs a new kind byte, and the old
//! one must stay readable. A body that compression would not shorten is stored as it is.

use bytes::Bytes;

use super::{
    codec::{Decoder, Encoder, Malformed},
    compression::Compression,
};

/// The dictionary, trained on events of all room versions, with the orders of members that
/// homeservers send.
static DICTIONARY_1: &[u8] = include_bytes!("body/pdu-1.zdict");
/// The longest body in bytes, uncompressed: ingest refuses longer texts.
const MAX_BODY: usize = 1 << 20;

const PLAIN: u8 = 0;
const COMPRESSED_1: u8 = 1;

/// The id of an event, and its PDU as it was received, without `unsigned`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The id of the event.
    pub event_id: String,
    /// The PDU as JSON text.
    pub pdu: Bytes,
}

thread_local! {
    static COMPRESSION: Compression = const { Compression::new(DICTIONARY_1) };
}

/// The value on disk, without its checksum.
pub(super) fn encode(event_id: &str, pdu: &[u8]) -> Vec<u8> {
    let compressed = COMPRESSION.with(|it| it.compress(pdu));
    let mut out = Encoder::default();
    out.byte(if compressed.is_some() { COMPRESSED_1 } else { PLAIN });
    out.text(event_id);
    out.length(pdu.len());
    out.raw(compressed.as_deref().unwrap_or(pdu));
    out.finish()
}

/// Reads a value as [`encode`] writes it.
pub(super) fn decode(bytes: &[u8]) -> Result<Body, Malformed> {
    let mut from = Decoder(bytes);
    let kind = from.byte()?;
    let event_id = from.text()?.to_owned();
    let length = usize::try_from(from.number()?).map_err(|_| Malformed)?;
    if length > MAX_BODY {
        return Err(Malformed);
    }
    let pdu = match kind {
        PLAIN => from.0.to_vec(),
        COMPRESSED_1 => COMPRESSION.with(|it| it.decompress(from.0, length)).ok_or(Malformed)?,
        _ => return Err(Malformed),
    };
    if pdu.len() == length { Ok(Body { event_id, pdu: pdu.into() }) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_come_back(event_id in "\\$[a-z]{0,50}", pdu: Vec<u8>) {
            let body = decode(&encode(&event_id, &pdu)).unwrap();
            prop_assert_eq!(body, Body { event_id, pdu: pdu.into() });
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes: Vec<u8>) {
            drop(decode(&bytes));
            bytes.insert(0, COMPRESSED_1);
            drop(decode(&bytes));
        }
    }

    #[test]
    fn a_typical_event_gets_less_than_half_as_long() {
        let pdu = br#"{"auth_events":["$a2bW","$b3cX"],"content":{"body":"good morning","msgtype":"m.text"},"depth":17,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin_server_ts":1795425467080,"prev_events":["$c4dY"],"room_id":"!room:example.org","sender":"@alice:example.org","signatures":{"example.org":{"ed25519:1":"x9UQ6GZHsI6Tmxwr8iW3zkU4PHBBhUtOR375UaDJ1vuBYRDmXLuwyWc7YsPspZFFa0jlfi5y4vHJISrwWy1zBg"}},"type":"m.room.message"}"#;
        assert!(encode("$x", pdu).len() * 10 < pdu.len() * 6);
    }

    /// Written by the first build of format 1; must be readable for ever.
    #[test]
    fn golden_plain_body() {
        assert_eq!(
            decode(b"\x00\x02$a\x02{}"),
            Ok(Body { event_id: "$a".into(), pdu: Bytes::from_static(b"{}") })
        );
    }
}
