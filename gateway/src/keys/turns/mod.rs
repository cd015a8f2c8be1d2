//! Whose keys are fetched next. Whoever asks us names the server that we ask, and a made-up name
//! may lead to a host that accepts and says nothing, so fetches are shared out by who asks:
//!
//! - Who has not had a turn goes first, then who has not had one for longest.
//! - One client has some of the turns, never all of them.
//! - Some are kept for servers whose keys have been known before, whoever asks for those.
//! - So many wait, of one client and of all; when there are too many, whoever has most loses his
//!   last.
//!
//! What a turn takes is bounded by the time that one fetch may take.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::client_address::ClientAddress;



/// How much at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Fetches under way.
    pub(super) turns: usize,
    /// Of those, so many are only for servers whose keys have been known before.
    pub(super) for_known: usize,
    /// Of those, so many are for one client.
    pub(super) turns_of_client: usize,
    /// Fetches that wait.
    pub(super) waiting: usize,
    /// Of those, so many for one client.
    pub(super) waiting_of_client: usize,
    /// ClientAddresss who are remembered though nothing of theirs waits or is under way.
    pub(super) idle_clients: usize,
}

/// Everybody's turns.
#[derive(Debug)]
pub(super) struct Turns {
    bounds: Bounds,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    under_way: usize,
    waiting: usize,
    lines: HashMap<ClientAddress, Line>,
    /// Turns given so far.
    given: u64,
}

/// What one client has.
#[derive(Debug, Default)]
struct Line {
    under_way: usize,
    waiting: VecDeque<Arc<Wait>>,
    /// Which of all turns his last was; zero: he had none.
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// At the cost of this client.
    Granted(ClientAddress),
    /// There are too many.
    Refused,
}

#[derive(Debug)]
struct Wait {
    state: watch::Sender<State>,
    is_known: watch::Sender<bool>,
}

/// A turn, or a place in the line for one. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    wait: Arc<Wait>,
}

impl Turns {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, table: Mutex::default() })
    }

    /// Puts a fetch into the line of an client. None when too many wait.
    pub(super) fn line_up(self: &Arc<Self>, client: ClientAddress) -> Option<Turn> {
        let wait = Arc::new(Wait {
            state: watch::Sender::new(State::Waiting),
            is_known: watch::Sender::new(false),
        });
        self.table().add(&self.bounds, client, &wait).then(|| Turn { turns: Arc::clone(self), wait })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Ready when it has come. Whether it has: there may be too many before it.
    pub(super) async fn has_come(&self) -> bool {
        let mut state = self.wait.state.subscribe();
        // The sender is held by `self`.
        let state = state.wait_for(|state| *state != State::Waiting).await.map(|it| *it);
        matches!(state, Ok(State::Granted(_)))
    }

    /// Somebody else wants the same: it waits in his line, too.
    pub(super) fn share(&self, client: ClientAddress) {
        let mut table = self.turns.table();
        let is_there = table
            .lines
            .get(&client)
            .is_some_and(|line| line.waiting.iter().any(|wait| Arc::ptr_eq(wait, &self.wait)));
        if self.wait.is_waiting() && !is_there {
            // Where there is no room, it goes on waiting where it was.
            let _has_room = table.add(&self.turns.bounds, client, &self.wait);
        }
    }

    /// The keys of this server have been known before.
    pub(super) fn is_known(&self) {
        self.wait.is_known.send_replace(true);
        self.turns.table().give(&self.turns.bounds);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.turns.table();
        match self.wait.state.send_replace(State::Refused) {
            State::Granted(client) => {
                table.under_way = table.under_way.saturating_sub(1);
                if let Some(line) = table.lines.get_mut(&client) {
                    line.under_way = line.under_way.saturating_sub(1);
                }
            }
            State::Waiting => table.leave(&self.wait),
            State::Refused => {}
        }
        table.give(&self.turns.bounds);
        table.forget(&self.turns.bounds);
    }
}

impl Wait {
    fn is_waiting(&self) -> bool {
        *self.state.borrow() == State::Waiting
    }
}

impl Table {
    fn add(&mut self, bounds: &Bounds, client: ClientAddress, wait: &Arc<Wait>) -> bool {
        let length = self.lines.get(&client).map_or(0, |line| line.waiting.len());
        if length >= bounds.waiting_of_client {
            return false;
        }
        if self.waiting >= bounds.waiting && !self.push_out(length) {
            return false;
        }
        self.lines.entry(client).or_default().waiting.push_back(Arc::clone(wait));
        self.waiting += 1;
        self.give(bounds);
        true
    }

    /// Takes the last fetch from the longest line, if it is longer than this one will be.
    fn push_out(&mut self, length: usize) -> bool {
        let longest = self.lines.values_mut().max_by_key(|line| line.waiting.len());
        let Some(line) = longest.filter(|line| line.waiting.len() > length + 1) else {
            return false;
        };
        if let Some(last) = line.waiting.pop_back() {
            self.waiting -= 1;
            let is_elsewhere = self
                .lines
                .values()
                .any(|line| line.waiting.iter().any(|it| Arc::ptr_eq(it, &last)));
            if !is_elsewhere {
                last.state.send_replace(State::Refused);
            }
        }
        true
    }

    /// Takes a fetch out of every line that it waits in.
    fn leave(&mut self, wait: &Arc<Wait>) {
        for line in self.lines.values_mut() {
            let before = line.waiting.len();
            line.waiting.retain(|it| !Arc::ptr_eq(it, wait));
            self.waiting = self.waiting.saturating_sub(before - line.waiting.len());
        }
    }

    /// Gives turns for as long as there are any.
    fn give(&mut self, bounds: &Bounds) {
        while let Some((client, wait)) = self.next(bounds) {
            self.leave(&wait);
            self.under_way += 1;
            self.given += 1;
            let given = self.given;
            let line = self.lines.entry(client).or_default();
            line.under_way += 1;
            line.last = given;
            wait.state.send_replace(State::Granted(client));
        }
    }

    /// Who is next, and what for.
    fn next(&self, bounds: &Bounds) -> Option<(ClientAddress, Arc<Wait>)> {
        if self.waiting == 0 || self.under_way >= bounds.turns {
            return None;
        }
        let only_known = self.under_way + bounds.for_known >= bounds.turns;
        let first = |line: &Line| {
            let may = |wait: &&Arc<Wait>| !only_known || *wait.is_known.borrow();
            line.waiting.iter().find(may).cloned()
        };
        let lines = self.lines.iter().filter(|(_, line)| line.under_way < bounds.turns_of_client);
        let candidates = lines.filter_map(|(client, line)| Some((line.last, *client, first(line)?)));
        let (_, client, wait) = candidates.min_by_key(|(last, client, _)| (*last, *client))?;
        Some((client, wait))
    }

    /// Forgets the clients of whom there is nothing to know but when they had their last turn, those
    /// first who had it first.
    fn forget(&mut self, bounds: &Bounds) {
        let is_idle = |line: &Line| line.under_way == 0 && line.waiting.is_empty();
        if self.lines.len() <= bounds.idle_clients.saturating_mul(2) {
            return;
        }
        let mut idle: Vec<u64> =
            self.lines.values().filter(|line| is_idle(line)).map(|line| line.last).collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(oldest) = idle.get(bounds.idle_clients) {
            self.lines.retain(|_, line| !is_idle(line) || line.last > *oldest);
        }
    }
}

#[cfg(test)]
mod tests;
