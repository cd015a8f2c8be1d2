//! Which fetch gets the next turn.

use std::net::IpAddr;

use futures_util::FutureExt as _;

use super::*;

const BOUNDS: TurnBounds = TurnBounds {
    turns: 6,
    for_known: 2,
    turns_of_client: 3,
    waiting: 10,
    waiting_of_client: 5,
    idle_clients: 4,
};

fn client(nth: u8) -> ClientAddress {
    ClientAddress::from(IpAddr::from([192, 0, 2, nth]))
}

fn has_come(turn: &Turn) -> bool {
    turn.granted().now_or_never() == Some(true)
}

fn refused(turn: &Turn) -> bool {
    turn.granted().now_or_never() == Some(false)
}

#[test]
fn one_client_never_has_all_turns_and_a_new_client_is_first() {
    let turns = Turns::new(BOUNDS);
    let mut first: Vec<Turn> = (0..8).map(|_| turns.enqueue(client(1)).unwrap()).collect();
    assert_eq!(first.iter().filter(|it| has_come(it)).count(), 3);
    assert!(turns.enqueue(client(1)).is_none(), "its queue is full");
    // Three of the four turns for unknown servers are taken.
    let second: Vec<Turn> = (0..3).map(|_| turns.enqueue(client(2)).unwrap()).collect();
    assert_eq!(second.iter().filter(|it| has_come(it)).count(), 1);
    let third = turns.enqueue(client(3)).unwrap();
    assert!(!has_come(&third));
    // A client without a turn goes before clients that have waited longer.
    drop(first.remove(0));
    assert!(has_come(&third));
    drop(first.remove(0));
    let second_has = second.iter().filter(|it| has_come(it)).count();
    let first_has = first.iter().filter(|it| has_come(it)).count();
    assert_eq!(
        (first_has, second_has),
        (2, 1),
        "the last turn of the first was before that of the second"
    );
}

#[test]
fn some_turns_are_kept_for_known_servers() {
    let turns = Turns::new(BOUNDS);
    let unknown: Vec<Turn> = (0..6).map(|nth| turns.enqueue(client(nth)).unwrap()).collect();
    assert_eq!(unknown.iter().filter(|it| has_come(it)).count(), 4);
    let known = turns.enqueue(client(0)).unwrap();
    assert!(!has_come(&known));
    known.set_known();
    assert!(has_come(&known));
    assert_eq!(unknown.iter().filter(|it| has_come(it)).count(), 4);
    drop(known);
    assert_eq!(unknown.iter().filter(|it| has_come(it)).count(), 4);
}

#[test]
fn the_client_with_the_most_loses_its_last_fetch() {
    let turns = Turns::new(BOUNDS);
    let under_way: Vec<Turn> = (10..14).map(|nth| turns.enqueue(client(nth)).unwrap()).collect();
    assert!(under_way.iter().all(has_come));
    let many: Vec<Turn> = (0..5).map(|_| turns.enqueue(client(1)).unwrap()).collect();
    let others: Vec<Turn> = (2..7).map(|nth| turns.enqueue(client(nth)).unwrap()).collect();
    let new = turns.enqueue(client(7)).unwrap();
    assert!(refused(&many[4]) && many[..4].iter().all(|it| !refused(it)));
    assert!(!refused(&new) && others.iter().all(|it| !refused(it)));
    // Until no client has more than others.
    let more: Vec<Turn> = (20..30).filter_map(|nth| turns.enqueue(client(nth))).collect();
    assert_eq!(more.len(), 3);
    assert_eq!(many.iter().filter(|it| !refused(it)).count(), 1);
}

#[test]
fn a_shared_fetch_waits_in_every_queue() {
    let turns = Turns::new(BOUNDS);
    let shared: Vec<Turn> = (0..8).map(|_| turns.enqueue(client(1)).unwrap()).collect();
    let other = turns.enqueue(client(2)).unwrap();
    let more = turns.enqueue(client(2)).unwrap();
    assert!(has_come(&other) && !has_come(&more));
    let wanted = &shared[7];
    assert!(!has_come(wanted));
    wanted.share(client(3));
    wanted.share(client(3));
    drop(other);
    assert!(has_come(wanted));
    drop(shared);
    drop(more);
    let table = turns.table();
    assert_eq!((table.under_way, table.waiting), (0, 0));
    assert!(table.queues.values().all(|it| it.under_way == 0 && it.waiting.is_empty()));
}

#[test]
fn idle_clients_are_removed() {
    let turns = Turns::new(BOUNDS);
    for nth in 0..200 {
        drop(turns.enqueue(client(nth)).unwrap());
    }
    assert!(turns.table().queues.len() <= 2 * BOUNDS.idle_clients + 1);
}
