//! Who gets the next turn.

use std::net::IpAddr;

use futures_util::FutureExt as _;

use super::*;

const BOUNDS: Bounds = Bounds {
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
    turn.has_come().now_or_never() == Some(true)
}

fn refused(turn: &Turn) -> bool {
    turn.has_come().now_or_never() == Some(false)
}

#[test]
fn one_asker_never_has_all_and_a_new_one_goes_first() {
    let turns = Turns::new(BOUNDS);
    let mut first: Vec<Turn> = (0..8).map(|_| turns.line_up(client(1)).unwrap()).collect();
    assert_eq!(first.iter().filter(|it| has_come(it)).count(), 3);
    assert!(turns.line_up(client(1)).is_none(), "his line is full");
    // Three of four for everybody are taken.
    let second: Vec<Turn> = (0..3).map(|_| turns.line_up(client(2)).unwrap()).collect();
    assert_eq!(second.iter().filter(|it| has_come(it)).count(), 1);
    let third = turns.line_up(client(3)).unwrap();
    assert!(!has_come(&third));
    // Whoever has had none goes before those who have waited for longer.
    drop(first.remove(0));
    assert!(has_come(&third));
    drop(first.remove(0));
    let second_has = second.iter().filter(|it| has_come(it)).count();
    let first_has = first.iter().filter(|it| has_come(it)).count();
    assert_eq!((first_has, second_has), (2, 1), "the first had his last turn before the second");
}

#[test]
fn some_are_kept_for_those_who_are_known() {
    let turns = Turns::new(BOUNDS);
    let strangers: Vec<Turn> = (0..6).map(|nth| turns.line_up(client(nth)).unwrap()).collect();
    assert_eq!(strangers.iter().filter(|it| has_come(it)).count(), 4);
    let known = turns.line_up(client(0)).unwrap();
    assert!(!has_come(&known));
    known.is_known();
    assert!(has_come(&known));
    assert_eq!(strangers.iter().filter(|it| has_come(it)).count(), 4);
    drop(known);
    assert_eq!(strangers.iter().filter(|it| has_come(it)).count(), 4);
}

#[test]
fn whoever_has_most_loses_his_last() {
    let turns = Turns::new(BOUNDS);
    let under_way: Vec<Turn> = (10..14).map(|nth| turns.line_up(client(nth)).unwrap()).collect();
    assert!(under_way.iter().all(has_come));
    let many: Vec<Turn> = (0..5).map(|_| turns.line_up(client(1)).unwrap()).collect();
    let others: Vec<Turn> = (2..7).map(|nth| turns.line_up(client(nth)).unwrap()).collect();
    let new = turns.line_up(client(7)).unwrap();
    assert!(refused(&many[4]) && many[..4].iter().all(|it| !refused(it)));
    assert!(!refused(&new) && others.iter().all(|it| !refused(it)));
    // Until nobody has more than others.
    let more: Vec<Turn> = (20..30).filter_map(|nth| turns.line_up(client(nth))).collect();
    assert_eq!(more.len(), 3);
    assert_eq!(many.iter().filter(|it| !refused(it)).count(), 1);
}

#[test]
fn who_wants_the_same_brings_his_own_place() {
    let turns = Turns::new(BOUNDS);
    let stranger: Vec<Turn> = (0..8).map(|_| turns.line_up(client(1)).unwrap()).collect();
    let other = turns.line_up(client(2)).unwrap();
    let more = turns.line_up(client(2)).unwrap();
    assert!(has_come(&other) && !has_come(&more));
    let wanted = &stranger[7];
    assert!(!has_come(wanted));
    wanted.share(client(3));
    wanted.share(client(3));
    drop(other);
    assert!(has_come(wanted));
    drop(stranger);
    drop(more);
    let table = turns.table();
    assert_eq!((table.under_way, table.waiting), (0, 0));
    assert!(table.lines.values().all(|it| it.under_way == 0 && it.waiting.is_empty()));
}

#[test]
fn those_who_are_gone_are_forgotten() {
    let turns = Turns::new(BOUNDS);
    for nth in 0..200 {
        drop(turns.line_up(client(nth)).unwrap());
    }
    assert!(turns.table().lines.len() <= 2 * BOUNDS.idle_clients + 1);
}
