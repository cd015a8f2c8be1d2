//! What must hold of everything that reads strangers' bytes, whatever they are. `fuzz/` looks for
//! bytes of which it does not hold, and the tests try those that are kept in `fuzz/seeds`.
//!
//! Compiled for tests and for fuzzing only.

use backscroll_matrix::{KeyAnswer, SignedObject};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::{
    json,
    routes::{backfill::BackfillQuery, get_missing_events::MissingEventsBody},
    server_name::ServerName,
    x_matrix::{Content, header},
};

/// The `Authorization` header. What is understood means the same when it is written anew.
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
    // Escapes make it longer, and only short ones are looked at.
    if written.len() <= header::MAX_HEADER_BYTES {
        assert_eq!(header::parse(written.as_bytes()), Some(Ok(read)), "{written}");
    }
}

/// The query of `/backfill`. What is read is the same when it is written anew.
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

/// The body of `/get_missing_events`. What is taken has one canonical form, which is its own, and
/// others call it JSON too.
pub fn body(bytes: &[u8]) {
    let Ok(read) = json::parse(bytes) else { return };
    let written = serde_json::to_vec(&read).expect("canonical JSON can be written");
    let again = json::parse(&written).expect("what we write we can read");
    assert_eq!(again, read);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
    drop(MissingEventsBody::read(Content::Json(read)));
}

/// A server's answer about its keys, and any other object that servers sign. What they have signed
/// is one text, which is its own.
pub fn key_answer(bytes: &[u8]) {
    let Ok(object) = SignedObject::parse(bytes) else { return };
    drop(KeyAnswer::read(&object));
    let Ok(text) = object.signed_text() else { return };
    let again = SignedObject::parse(text.as_bytes()).expect("what we write we can read");
    assert_eq!(again.signed_text().as_ref(), Ok(&text));
}

/// A server name. What is taken is written as it was, its parts are the whole, and ruma takes it
/// too: the grammar is only narrowed.
pub fn server_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(name) = text.parse::<ServerName>() else { return };
    assert_eq!(name.as_str(), text);
    let (host, port) = name.host_and_port();
    let rest = text.strip_prefix(host).expect("it begins with the host");
    assert_eq!(rest.strip_prefix(':').and_then(|it| it.parse().ok()), port, "{text}");
    assert!(ruma::ServerName::parse(text).is_ok(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn they_hold_of_all_seeds() {
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
