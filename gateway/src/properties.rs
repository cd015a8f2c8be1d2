//! Properties of everything that parses bytes of unknown clients. They must hold for all bytes. `fuzz/`
//! searches for bytes that violate them, and the tests try those in `fuzz/seeds`.
//!
//! Compiled for tests and for fuzzing only.

use backscroll_matrix::{KeyAnswer, SignedObject, read_strict_json};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::{
    routes::{backfill::BackfillQuery, get_missing_events::MissingEventsBody},
    server_name::ServerName,
    x_matrix::{Content, header},
};

/// The `Authorization` header: a parsed header has the same meaning after it is written and parsed again.
pub fn x_matrix_header(bytes: &[u8]) {
    let Some(Ok(read)) = header::parse(bytes) else { return };
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let destination = read.destination.as_deref();
    let destination =
        destination.map(|it| format!(r#"destination="{}","#, escaped(it))).unwrap_or_default();
    let written = format!(
        r#"X-Matrix origin="{}",{destination}key="{}",sig="{}""#,
        read.origin,
        escaped(&read.key_id),
        STANDARD_NO_PAD.encode(read.signature.to_bytes()),
    );
    // Escapes make the header longer, and long headers are refused.
    if written.len() <= header::MAX_HEADER_BYTES {
        assert_eq!(header::parse(written.as_bytes()), Some(Ok(read)), "{written}");
    }
}

/// The query of `/backfill`: parsed parameters are the same after they are written and parsed again.
pub fn query_string(bytes: &[u8]) {
    let Ok(query) = std::str::from_utf8(bytes) else { return };
    let read = BackfillQuery::read(query);
    assert!(read.event_ids.iter().all(|it| !it.is_empty()), "{read:?}");
    let mut written = String::new();
    for id in &read.event_ids {
        let id: String = id.bytes().map(|it| format!("%{it:02X}")).collect();
        written += &format!("&v={id}");
    }
    if let Some(limit) = read.limit {
        written += &format!("&limit={limit}");
    }
    assert_eq!(BackfillQuery::read(&written), read, "{written}");
}

/// The body of `/get_missing_events`: accepted JSON has one canonical form, and is valid JSON for
/// `serde_json` too.
pub fn body(bytes: &[u8]) {
    let Ok(read) = read_strict_json(bytes) else { return };
    let written = serde_json::to_vec(&read).expect("canonical JSON can be serialized");
    let again = read_strict_json(&written).expect("serialized JSON can be parsed");
    assert_eq!(again, read);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
    drop(MissingEventsBody::read(Content::Json(read)));
}

/// A server's answer about its keys, and any other signed object: the signed text is canonical.
pub fn key_answer(bytes: &[u8]) {
    let Ok(object) = SignedObject::parse(bytes) else { return };
    drop(KeyAnswer::read(&object));
    let Ok(text) = object.signed_text() else { return };
    let again = SignedObject::parse(text.as_bytes()).expect("serialized JSON can be parsed");
    assert_eq!(again.signed_text().as_ref(), Ok(&text));
}

/// A server name: an accepted name is unchanged, consists of host and port, and is valid for ruma too.
pub fn server_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(name) = text.parse::<ServerName>() else { return };
    assert_eq!(name.as_str(), text);
    let (host, port) = name.host_and_port();
    let rest = text.strip_prefix(host).expect("a name begins with its host");
    assert_eq!(rest.strip_prefix(':').and_then(|it| it.parse().ok()), port, "{text}");
    assert!(ruma::ServerName::parse(text).is_ok(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn properties_hold_for_all_seeds() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 5] = [
            ("x_matrix_header", x_matrix_header),
            ("query_string", query_string),
            ("body", body),
            ("server_name", server_name),
            ("key_answer", key_answer),
        ];
        for (name, property) in targets {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
            let mut tried = 0;
            for seed in fs::read_dir(seeds).unwrap() {
                property(&fs::read(seed.unwrap().path()).unwrap());
                tried += 1;
            }
            assert!(tried > 0, "no seeds of {name}");
        }
    }
}
