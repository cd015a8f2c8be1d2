//! Leases, ticks and waiting, with a clock that the test sets.

use futures_util::{FutureExt as _, poll};

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ready() -> TickReport {
    TickReport { is_ready: true, not_ready_description: String::new() }
}

/// A feeder with the lease "a" since `now`.
fn granted(now: Instant) -> Arc<Feeder> {
    let feeder = Arc::new(Feeder::default());
    assert_eq!(feeder.grant("synapse", "a", now), Grant::Granted);
    feeder
}

#[test]
fn a_lease_that_is_not_held_in_the_store_any_more_is_lost() {
    let start = Instant::now();
    let feeder = granted(start);
    feeder.hold_until("b", start);
    feeder.hold_until("a", start + ms(8_000));
    drop(feeder.begin_write("a", start + ms(7_999)).unwrap());
    assert_eq!(feeder.begin_write("a", start + ms(8_000)).err(), Some(LeaseLost));
    assert_eq!(feeder.check_lag(ms(500), start + ms(8_000)), Err(FeederBehind::Away));
    feeder.hold_until("a", start + ms(9_000));
    assert!(feeder.begin_write("a", start + ms(8_500)).is_ok());
}

#[test]
fn there_is_one_feeder_until_it_is_silent_or_leaves() {
    let start = Instant::now();
    let feeder = granted(start);
    assert_eq!(feeder.grant("synapse", "b", start + ms(9_999)), Grant::Active);
    feeder.alive("a", start + ms(9_999)).unwrap();
    assert_eq!(feeder.grant("synapse", "b", start + ms(19_998)), Grant::Active);
    assert_eq!(feeder.grant("synapse", "b", start + ms(19_999)), Grant::Granted);
    assert_eq!(feeder.alive("a", start + ms(19_999)), Err(ReportFault::LeaseLost));
    feeder.release("a");
    assert_eq!(feeder.grant("synapse", "c", start + ms(20_000)), Grant::Active);
    feeder.release("b");
    assert_eq!(feeder.grant("synapse", "c", start + ms(20_000)), Grant::Granted);
}

#[test]
fn a_silent_feeder_does_not_come_back_by_a_late_report() {
    let start = Instant::now();
    let feeder = granted(start);
    assert_eq!(feeder.alive("a", start + LEASE_TIME), Err(ReportFault::LeaseLost));
    assert!(feeder.begin_write("a", start + LEASE_TIME).is_err());
    assert_eq!(feeder.status(start + LEASE_TIME), None);
}

#[test]
fn a_lease_is_granted_only_when_no_call_of_an_earlier_feeder_writes() {
    let start = Instant::now();
    let feeder = granted(start);
    let (one, other) = (feeder.begin_write("a", start), feeder.begin_write("a", start));
    feeder.release("a");
    assert_eq!(feeder.begin_write("a", start).unwrap_err(), LeaseLost);
    assert_eq!(feeder.grant("synapse", "b", start), Grant::Writing);
    let mut idle = Box::pin(feeder.until_idle());
    assert!((&mut idle).now_or_never().is_none());
    drop(one);
    assert_eq!(feeder.grant("synapse", "b", start), Grant::Writing);
    drop(other);
    assert_eq!((&mut idle).now_or_never(), Some(()));
    assert_eq!(feeder.grant("synapse", "b", start), Grant::Granted);
    assert!(feeder.begin_write("a", start).is_err());
    feeder.begin_write("b", start).unwrap();
}

#[test]
fn the_lag_counts_from_the_beginning_of_the_last_tick_that_ended() {
    let start = Instant::now();
    let at = |it| start + ms(it);
    let feeder = Feeder::default();
    assert_eq!(feeder.check_lag(ms(500), start), Err(FeederBehind::Away));
    assert_eq!(feeder.lag(at(7)), Duration::ZERO);
    assert_eq!(feeder.grant("synapse", "a", start), Grant::Granted);
    assert_eq!(feeder.check_lag(ms(500), start), Err(FeederBehind::NotReady));
    assert_eq!(feeder.tick_ended("a", ready(), start), Err(ReportFault::NoTick));
    feeder.tick_begun("a", at(100)).unwrap();
    assert_eq!(feeder.check_lag(ms(500), at(150)), Err(FeederBehind::NotReady));
    feeder.tick_ended("a", ready(), at(200)).unwrap();
    assert_eq!(feeder.check_lag(ms(500), at(600)), Ok(()));
    feeder.tick_begun("a", at(600)).unwrap();
    assert_eq!(feeder.check_lag(ms(500), at(601)), Err(FeederBehind::Behind(ms(501))));
    assert_eq!(feeder.status(at(601)).unwrap().lag, Some(ms(501)));
    let report = TickReport { is_ready: false, not_ready_description: "importing".to_owned() };
    feeder.tick_ended("a", report.clone(), at(700)).unwrap();
    assert_eq!(feeder.check_lag(ms(500), at(700)), Err(FeederBehind::NotReady));
    assert_eq!(feeder.status(at(700)).unwrap().report, report);
    assert_eq!(feeder.lag(at(700)), ms(100));
    feeder.release("a");
    assert_eq!(feeder.check_lag(ms(500), at(700)), Err(FeederBehind::Away));
    assert_eq!(feeder.lag(at(800)), ms(200));
}

#[test]
fn an_answer_is_final_after_a_tick_that_began_after_the_request() {
    let start = Instant::now();
    let feeder = granted(start);
    feeder.tick_begun("a", start).unwrap();
    let received = feeder.received();
    feeder.tick_ended("a", ready(), start).unwrap();
    assert!(!feeder.is_final(received), "that tick had begun before");
    feeder.tick_begun("a", start).unwrap();
    assert!(!feeder.is_final(received));
    // A feeder that is lost in the middle of a tick never ends it.
    feeder.release("a");
    assert_eq!(feeder.grant("synapse", "b", start), Grant::Granted);
    assert_eq!(feeder.tick_ended("b", ready(), start), Err(ReportFault::NoTick));
    assert!(!feeder.is_final(received));
    feeder.tick_begun("b", start).unwrap();
    feeder.tick_ended("b", ready(), start).unwrap();
    assert!(feeder.is_final(received));
}

#[tokio::test]
async fn the_first_request_that_waits_wants_a_tick_and_the_others_wait_for_the_same() {
    let start = Instant::now();
    let feeder = granted(start);
    feeder.tick_begun("a", start).unwrap();
    let received = feeder.received();
    let slots = (feeder.wait_slot("one").unwrap(), feeder.wait_slot("two").unwrap());
    let mut seen = feeder.ticks_wanted();
    let mut first = Box::pin(slots.0.until_final(received));
    let mut second = Box::pin(slots.1.until_final(received));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    assert!(feeder.until_tick_wanted(&mut seen).now_or_never().is_some());
    assert!(feeder.until_tick_wanted(&mut seen).now_or_never().is_none(), "wanted once");
    feeder.tick_ended("a", ready(), start).unwrap();
    assert!(poll!(&mut first).is_pending());
    feeder.tick_begun("a", start).unwrap();
    assert!(poll!(&mut first).is_pending());
    feeder.tick_ended("a", ready(), start).unwrap();
    assert!(poll!(&mut first).is_ready() && poll!(&mut second).is_ready());
    // The tick for which this one waits has begun already.
    let late = feeder.received();
    feeder.tick_begun("a", start).unwrap();
    let mut third = Box::pin(slots.0.until_final(late));
    assert!(poll!(&mut third).is_pending());
    assert!(feeder.until_tick_wanted(&mut seen).now_or_never().is_none());
}

#[test]
fn only_a_bounded_number_of_requests_waits() {
    let feeder = Feeder::default();
    let of_one: Vec<_> = (0..4).filter_map(|_| feeder.wait_slot("one")).collect();
    assert_eq!(of_one.len(), 4);
    assert!(feeder.wait_slot("one").is_none());
    let others: Vec<_> =
        (0..300).filter_map(|it| feeder.wait_slot(&format!("server-{it}"))).collect();
    assert_eq!(others.len(), 252);
    assert_eq!(feeder.waiting(), 256);
    drop(of_one);
    assert!(feeder.wait_slot("one").is_some());
    drop(others);
    assert_eq!(feeder.waiting(), 0);
    assert!(feeder.state().waiting.is_empty());
}
