//! The feeder: a service that copies the rooms of a homeserver into this one. At most one caller is
//! the feeder at a time; it has a lease. It works in ticks: each tick reads everything that the
//! homeserver has made visible, and ends when all of that has been acknowledged.
//!
//! All of this is in memory: a feeder that meets another process asks for a new lease. Of processes that
//! share a store, only that with the `Feed` stream knows the feeder; a lease in the store keeps the others
//! from granting one.
//!
//! # What a lease promises
//! A call with a lease changes the store only while it holds a [`WriteGuard`], which it gets only
//! while its feeder is the feeder. A new lease is granted only when no guard is left. So once a
//! feeder has its lease, no call of an earlier feeder changes anything any more. A batch that was
//! begun before its lease was lost is finished as a whole.
//!
//! # When an answer is final
//! A request notes the number of the first tick that begins after it was received
//! ([`Feeder::received`]). An answer that is found after the end of that tick is final: what the
//! homeserver showed before the request came was acknowledged by then.

mod waiting;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

pub use self::waiting::{Received, WaitSlot};
use crate::sync::lock;

/// The most characters of a feeder's name.
const MAX_NAME: usize = 64;

/// Whether a text may be the name of a feeder: 1 to 64 of the characters a-z, 0-9, `-` and `_`.
#[must_use]
pub fn is_feeder_name(text: &str) -> bool {
    let is_allowed = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-_".contains(&it);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// A feeder that reports nothing for this time is no longer the feeder.
pub const LEASE_TIME: Duration = Duration::from_secs(10);

/// The feeder, its lease and its ticks.
#[derive(Debug)]
pub struct Feeder {
    state: Mutex<FeederState>,
    /// The number of the last tick that has ended.
    ended: watch::Sender<u64>,
    /// Counts how often a tick was wanted.
    wanted: watch::Sender<u64>,
    /// Notified when the last write guard is dropped.
    idle: Notify,
}

#[derive(Debug, Default)]
struct FeederState {
    current: Option<Current>,
    /// Number of ticks begun, by all feeders.
    ticks_begun: u64,
    /// Whether a tick is wanted that has not begun.
    is_tick_wanted: bool,
    /// When the last tick that has ended had begun.
    last_begun_at: Option<Instant>,
    /// When the first feeder got its lease.
    first_granted_at: Option<Instant>,
    /// Number of write guards.
    writes: usize,
    /// Requests that wait, by the server that asks.
    waiting: BTreeMap<String, usize>,
}

/// The feeder that has the lease.
#[derive(Debug)]
struct Current {
    name: String,
    lease_id: String,
    reported_at: Instant,
    /// Until when this process may take it for the feeder, if other processes share the store.
    held_until: Option<Instant>,
    /// The tick that was begun last, while it has not ended.
    tick: Option<Tick>,
    /// The last tick of this feeder that has ended.
    ended: Option<EndedTick>,
}

#[derive(Clone, Copy, Debug)]
struct Tick {
    number: u64,
    begun_at: Instant,
}

#[derive(Debug)]
struct EndedTick {
    begun_at: Instant,
    report: TickReport,
}

/// What a feeder reports at the end of a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TickReport {
    /// Whether the rooms that are served are complete.
    pub is_ready: bool,
    /// Why the feeder is not ready, for people.
    pub not_ready_description: String,
}

/// The feeder and its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeederStatus {
    /// The name of the feeder.
    pub feeder_name: String,
    /// What it reported at the end of its last tick.
    pub report: TickReport,
    /// The time since the beginning of its last tick that has ended; `None` if none has ended.
    pub lag: Option<Duration>,
}

/// How current an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeederBounds {
    /// The greatest lag of the feeder.
    pub max_lag: Duration,
    /// How long a negative answer may wait for the next tick.
    pub max_wait: Duration,
}

/// Why the feeder does not keep the bounds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeederBehind {
    /// There is no feeder.
    #[error("there is no feeder")]
    Away,
    /// The feeder has not ended a tick, or reported that it is not ready.
    #[error("the feeder is not ready")]
    NotReady,
    /// The lag is greater than the bound.
    #[error("the feeder is {} ms behind the homeserver", .0.as_millis())]
    Behind(Duration),
}

impl FeederBehind {
    /// The name of the variant in errors and, in lower case, in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "AWAY",
            Self::NotReady => "NOT_READY",
            Self::Behind(_) => "BEHIND",
        }
    }
}

/// How a request for a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The caller is the feeder now.
    Granted,
    /// Another caller is the feeder.
    Active,
    /// Calls of an earlier feeder still write: ask again after [`Feeder::until_idle`].
    Writing,
}

/// The caller is no longer the feeder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller is no longer the feeder: its lease has ended")]
pub struct LeaseLost;

/// Why a report of the feeder is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFault {
    /// The caller is no longer the feeder.
    LeaseLost,
    /// A tick ends that was not begun.
    NoTick,
}

/// While it exists, the call that holds it may write, and no new lease is granted.
#[derive(Debug)]
pub struct WriteGuard(Arc<Feeder>);

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writes -= 1;
        if state.writes == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Default for Feeder {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
            idle: Notify::new(),
        }
    }
}

impl Feeder {
    fn state(&self) -> MutexGuard<'_, FeederState> {
        lock(&self.state)
    }

    /// Makes the caller the feeder if there is none. `lease_id` must be one that nobody can guess.
    pub fn grant(&self, feeder_name: &str, lease_id: &str, now: Instant) -> Grant {
        let mut state = self.state();
        if state.current.as_ref().is_some_and(|it| it.is_alive(now)) {
            return Grant::Active;
        }
        // What is not alive stays so: its lease is not accepted any more.
        state.current = None;
        if state.writes > 0 {
            return Grant::Writing;
        }
        state.is_tick_wanted = false;
        state.first_granted_at.get_or_insert(now);
        state.current = Some(Current {
            name: feeder_name.to_owned(),
            lease_id: lease_id.to_owned(),
            reported_at: now,
            held_until: None,
            tick: None,
            ended: None,
        });
        Grant::Granted
    }

    /// Lets a lease be valid until then at most, in a store that other processes share.
    pub fn hold_until(&self, lease_id: &str, until: Instant) {
        let mut state = self.state();
        if let Some(current) = state.current.as_mut().filter(|it| it.lease_id == lease_id) {
            current.held_until = Some(until);
        }
    }

    /// Waits until no call of an earlier feeder writes any more.
    pub async fn until_idle(&self) {
        let idle = self.idle.notified();
        if self.state().writes > 0 {
            idle.await;
        }
    }

    /// Ends a lease, if it has not ended.
    pub fn release(&self, lease_id: &str) {
        let mut state = self.state();
        state.current.take_if(|it| it.lease_id == lease_id);
    }

    /// Lets a call with a lease write until the guard is dropped.
    ///
    /// # Errors
    /// The lease is not that of the feeder.
    pub fn begin_write(
        self: &Arc<Self>,
        lease_id: &str,
        now: Instant,
    ) -> Result<WriteGuard, LeaseLost> {
        let mut state = self.state();
        state.current(lease_id, now).ok_or(LeaseLost)?;
        state.writes += 1;
        Ok(WriteGuard(Arc::clone(self)))
    }

    /// Notes that the feeder is at work.
    ///
    /// # Errors
    /// The lease is not that of the feeder.
    pub fn alive(&self, lease_id: &str, now: Instant) -> Result<(), ReportFault> {
        let mut state = self.state();
        let current = state.current(lease_id, now).ok_or(ReportFault::LeaseLost)?;
        current.reported_at = now;
        Ok(())
    }

    /// Notes that a tick begins. One that was begun before and has not ended is forgotten.
    ///
    /// # Errors
    /// The lease is not that of the feeder.
    pub fn tick_begun(&self, lease_id: &str, now: Instant) -> Result<(), ReportFault> {
        let mut state = self.state();
        let number = state.ticks_begun + 1;
        let current = state.current(lease_id, now).ok_or(ReportFault::LeaseLost)?;
        current.reported_at = now;
        current.tick = Some(Tick { number, begun_at: now });
        state.ticks_begun = number;
        state.is_tick_wanted = false;
        Ok(())
    }

    /// Notes that the tick that was begun last has ended.
    ///
    /// # Errors
    /// The lease is not that of the feeder, or no tick was begun.
    pub fn tick_ended(
        &self,
        lease_id: &str,
        report: TickReport,
        now: Instant,
    ) -> Result<(), ReportFault> {
        let mut state = self.state();
        let current = state.current(lease_id, now).ok_or(ReportFault::LeaseLost)?;
        let Tick { number, begun_at } = current.tick.take().ok_or(ReportFault::NoTick)?;
        current.reported_at = now;
        current.ended = Some(EndedTick { begun_at, report });
        state.last_begun_at = Some(begun_at);
        drop(state);
        self.ended.send_replace(number);
        Ok(())
    }

    /// The feeder and its progress; `None` if there is no feeder.
    pub fn status(&self, now: Instant) -> Option<FeederStatus> {
        let state = self.state();
        let current = state.current.as_ref().filter(|it| it.is_alive(now))?;
        let ended = current.ended.as_ref();
        Some(FeederStatus {
            feeder_name: current.name.clone(),
            report: ended.map(|it| it.report.clone()).unwrap_or_default(),
            lag: ended.map(|it| now.saturating_duration_since(it.begun_at)),
        })
    }

    /// The time since the beginning of the last tick that has ended, whoever was the feeder; since
    /// the first lease if none has ended; zero if there was no lease since the start.
    pub fn lag(&self, now: Instant) -> Duration {
        let state = self.state();
        let since = state.last_begun_at.or(state.first_granted_at);
        since.map_or(Duration::ZERO, |it| now.saturating_duration_since(it))
    }

    /// Checks that there is a feeder, that it is ready, and that its lag is not greater than
    /// `max_lag`.
    ///
    /// # Errors
    /// The first of these that does not hold.
    pub fn check_lag(&self, max_lag: Duration, now: Instant) -> Result<(), FeederBehind> {
        let state = self.state();
        let current = state.current.as_ref().filter(|it| it.is_alive(now));
        let ended = current.ok_or(FeederBehind::Away)?.ended.as_ref();
        let ended = ended.filter(|it| it.report.is_ready).ok_or(FeederBehind::NotReady)?;
        let lag = now.saturating_duration_since(ended.begun_at);
        if lag > max_lag { Err(FeederBehind::Behind(lag)) } else { Ok(()) }
    }
}

impl FeederState {
    /// The feeder, if it has this lease.
    fn current(&mut self, lease_id: &str, now: Instant) -> Option<&mut Current> {
        let current = self.current.as_mut()?;
        (current.lease_id == lease_id && current.is_alive(now)).then_some(current)
    }
}

impl Current {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.reported_at) < LEASE_TIME
            && self.held_until.is_none_or(|it| now < it)
    }
}

#[cfg(test)]
mod tests;
