//! draft
use std::collections::BTreeMap;
use backscroll::{context::Context, ingest::{self, NewEvent, Verdict, Outcome}, query::{self, Asker}, store::{Options, Store}};
use crate::support::rooms;
use sha2::Digest as _;

#[test]
fn draft() {
    let (mut good, mut bad, mut sgood, mut sbad) = (0, 0, 0, 0);
    for room in rooms::all() {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&Options { data_dir: dir.path().into(), cache_bytes: 1 << 24 }).unwrap());
        for line in &room.lines {
            let out = ingest::append(&cx, &NewEvent { room_id: &room.header.room_id, room_version: &room.header.room_version, event_id: &line.event_id,
                pdu: line.pdu.get().as_bytes(), verdict: Verdict { outlier: line.outlier, rejected: line.rejected, soft_failed: line.soft_failed }, state_after: &line.state_after, arrival: None }).unwrap();
            if !matches!(out, Outcome::Appended { duplicate: false, redacted: false, .. }) { println!("{} {:?}", room.name, out); }
        }
        for user in &room.header.erased_users { cx.store.set_erased(user, true).unwrap(); }
        for (event, hash) in &room.states {
            match query::get_state(&cx, (&room.header.room_id, event), (10000, "")) {
                Ok(page) => {
                    let mut lines: Vec<_> = page.entries.iter().map(|it| (it.event_type.clone(), it.state_key.clone(), it.event_id.clone())).collect();
                    lines.sort();
                    let text: String = lines.iter().map(|(a, b, c)| format!("{a}\0{b}\0{c}\n")).collect();
                    let got: String = sha2::Sha256::digest(text.as_bytes()).iter().map(|it| format!("{it:02x}")).collect();
                    if got == *hash { sgood += 1 } else { sbad += 1; println!("{} state {event} differs", room.name) }
                }
                Err(e) => { sbad += 1; println!("{} state {event} {e}", room.name) }
            }
        }
        let mut shown = 0;
        for r in &room.requests {
            let asker = Asker::Server { origin: r.origin.clone(), destination: r.destination.clone() };
            let page = if r.method == "GET" {
                let q = r.uri.split_once('?').map(|(_, q)| q).unwrap_or("");
                let dec = |s: &str| percent_decode(s);
                let mut v = vec![]; let mut limit = None;
                for kv in q.split('&') { let (k, val) = kv.split_once('=').unwrap(); if k == "v" { v.push(dec(val)) } else { limit = Some(val.parse().unwrap()) } }
                query::backfill(&cx, &query::Backfill { room_id: room.header.room_id.clone(), asker, event_ids: v, limit })
            } else {
                let c = r.content.clone().unwrap();
                let list = |m: &str| c[m].as_array().map(|a| a.iter().map(|x| x.as_str().unwrap().to_owned()).collect()).unwrap_or_default();
                query::get_missing_events(&cx, &query::GetMissingEvents { room_id: room.header.room_id.clone(), asker, earliest_events: list("earliest_events"), latest_events: list("latest_events"), limit: c["limit"].as_i64().map(|x| x.clamp(0, 1000) as u32), min_depth: c["min_depth"].as_i64().unwrap_or(0) })
            };
            let _: BTreeMap<u8, u8> = BTreeMap::new();
            let (status, events) = match page { Ok(p) => (200, p.events), Err(query::QueryError::NotAllowed(_)) => (403, vec![]), Err(e) => { println!("{e}"); (500, vec![]) } };
            let mut ok = status == r.expected.status && events.len() == r.expected.events.len();
            for (e, (id, form, hash)) in events.iter().zip(&r.expected.events) {
                ok &= e.event_id == *id;
                let f = if e.form == backscroll::visibility::Form::Full { "full" } else { "redacted" };
                if form != "either" && form != f { ok = false; println!("FORM {} {id} expected {form} got {f} for {}", room.name, r.origin); }
                
                let v: serde_json::Value = serde_json::from_slice(&e.pdu).unwrap();
                if let Some(hash) = hash && !room.name.starts_with("floats") {
                    let got: String = sha2::Sha256::digest(serde_json::to_string(&v).unwrap().as_bytes()).iter().map(|it| format!("{it:02x}")).collect();
                    if got != *hash { ok = false; println!("hash {}", String::from_utf8_lossy(&e.pdu)); }
                }
            }
            if ok { good += 1 } else { bad += 1; shown += 1; if shown < 4 { println!("{} {} {} {:?} differs {:?}: expected {} {:?}, got {status} {:?}", room.name, r.origin, r.uri, r.content, r.differs, r.expected.status, r.expected.events.iter().map(|e| (&e.0[..6], &e.1)).collect::<Vec<_>>(), events.iter().map(|e| (&e.event_id[..6], e.form)).collect::<Vec<_>>()); } }
        }
    }
    println!("requests: {good} good {bad} bad; states {sgood} good {sbad} bad");
    assert_eq!((bad, sbad), (0, 0));
}
fn percent_decode(s: &str) -> String {
    let b = s.as_bytes(); let mut out = vec![]; let mut i = 0;
    while i < b.len() { if b[i] == b'%' { out.push(u8::from_str_radix(&s[i+1..i+3], 16).unwrap()); i += 3 } else { out.push(b[i]); i += 1 } }
    String::from_utf8(out).unwrap()
}
