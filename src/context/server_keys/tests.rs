//! How long stored keys may be used, and which replace which.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::json;

use super::*;
use crate::store::{Options, Store};

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;

fn answer(valid_until_ts: u64) -> Vec<u8> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
    let mut answer = json!({
        "server_name": "s.example",
        "valid_until_ts": valid_until_ts,
        "verify_keys": {"ed25519:1": {"key": public}},
    });
    let made = key.sign(answer.to_string().as_bytes()).to_bytes();
    answer["signatures"] = json!({"s.example": {"ed25519:1": STANDARD_NO_PAD.encode(made)}});
    answer.to_string().into_bytes()
}

fn context() -> (tempfile::TempDir, Context) {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
    (dir, cx)
}

#[test]
fn keys_are_used_for_at_most_seven_days_after_their_fetch() {
    let (_dir, cx) = context();
    for (valid_until_ts, fetched_ts, last) in [
        (NOW + DAY, NOW, NOW + DAY),
        (NOW + 7 * DAY, NOW, NOW + 7 * DAY),
        (NOW + 8 * DAY, NOW, NOW + 7 * DAY),
        (u64::MAX, NOW, NOW + 7 * DAY),
    ] {
        let fetched = FetchedKeys { fetched_ts, answer: answer(valid_until_ts) };
        cx.put_server_keys("s.example", &fetched, NOW).unwrap();
        for (now, expected) in [
            (fetched_ts, RememberedKeys::Valid(fetched.clone())),
            (last, RememberedKeys::Valid(fetched.clone())),
            (last + 1, RememberedKeys::Expired),
            // A clock was wrong at the fetch, or is wrong now.
            (fetched_ts - 1, RememberedKeys::Expired),
        ] {
            assert_eq!(cx.server_keys("s.example", now).unwrap(), expected, "{now}");
        }
    }
    assert_eq!(cx.server_keys("t.example", NOW).unwrap(), RememberedKeys::Unknown);
}

#[test]
fn keys_that_were_fetched_later_are_not_replaced() {
    let (_dir, cx) = context();
    let put = |fetched_ts: u64, valid_until_ts: u64, now: u64| {
        let fetched = FetchedKeys { fetched_ts, answer: answer(valid_until_ts) };
        cx.put_server_keys("s.example", &fetched, now).unwrap();
        cx.store.server_keys("s.example").unwrap() == Some(fetched)
    };
    assert!(put(NOW, NOW + 9 * DAY, NOW));
    assert!(!put(NOW - 1, NOW + 9 * DAY, NOW), "fetched before");
    assert!(put(NOW, NOW + 1, NOW), "fetched at the same time");
    assert!(put(NOW + 1, NOW + 2, NOW + 1), "fetched later, though valid for a shorter time");
    // Keys from a time when the clock was ahead are replaced once it is right again.
    assert!(put(NOW + 99 * DAY, NOW + 99 * DAY, NOW + 99 * DAY));
    assert!(put(NOW + 2, NOW + DAY, NOW + 2));
}
