//! Which fetch of keys is next. A client can name any server, also one that accepts connections and
//! never responds. So the turns are divided between clients:
//!
//! - The next turn is for a client that has not had one, otherwise for the client whose last turn is
//!   longest ago.
//! - One client can have some of the turns, never all of them.
//! - Some turns are kept for servers whose keys were known before, for all clients.
//! - The number of waiting fetches is limited, for each client and for all. When there are too many,
//!   the client with the most loses its last one.
//!
//! A turn lasts as long as one fetch, which has a timeout.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::client_address::ClientAddress;

/// The numbers of turns and of waiting fetches.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnBounds {
    /// Most fetches under way.
    pub(super) turns: usize,
    /// Turns that are kept for servers whose keys were known before.
    pub(super) for_known: usize,
    /// Most fetches under way for one client.
    pub(super) turns_of_client: usize,
    /// Most waiting fetches of all clients.
    pub(super) waiting: usize,
    /// Most waiting fetches of one client.
    pub(super) waiting_of_client: usize,
    /// Most clients that are kept without any fetch.
    pub(super) idle_clients: usize,
}

/// The turns of all clients.
#[derive(Debug)]
pub(super) struct Turns {
    bounds: TurnBounds,
    table: Mutex<TurnTable>,
}

#[derive(Debug, Default)]
struct TurnTable {
    under_way: usize,
    waiting: usize,
    queues: HashMap<ClientAddress, ClientQueue>,
    /// Number of turns granted so far.
    granted: u64,
}

/// The fetches of one client.
#[derive(Debug, Default)]
struct ClientQueue {
    under_way: usize,
    waiting: VecDeque<Arc<WaitingFetch>>,
    /// The number of the client's last turn among all turns; zero if it has had none.
    last_turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnState {
    Waiting,
    /// The turn counts as one of this client's.
    Granted(ClientAddress),
    /// Too many fetches wait, or the turn has ended.
    Refused,
}

#[derive(Debug)]
struct WaitingFetch {
    state: watch::Sender<TurnState>,
    is_known: watch::Sender<bool>,
}

/// A turn, or a place in the queue for one. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    wait: Arc<WaitingFetch>,
}

impl Turns {
    pub(super) fn new(bounds: TurnBounds) -> Arc<Self> {
        Arc::new(Self { bounds, table: Mutex::default() })
    }

    /// Adds a fetch to the queue of a client. `None` if too many wait.
    pub(super) fn enqueue(self: &Arc<Self>, client: ClientAddress) -> Option<Turn> {
        let wait = Arc::new(WaitingFetch {
            state: watch::Sender::new(TurnState::Waiting),
            is_known: watch::Sender::new(false),
        });
        self.table()
            .add(&self.bounds, client, &wait)
            .then(|| Turn { turns: Arc::clone(self), wait })
    }

    fn table(&self) -> MutexGuard<'_, TurnTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits for the turn. `false` if it was refused, because too many fetches wait.
    pub(super) async fn granted(&self) -> bool {
        let mut state = self.wait.state.subscribe();
        // `self` holds the sender, so this cannot fail.
        let state = state.wait_for(|state| *state != TurnState::Waiting).await.map(|it| *it);
        matches!(state, Ok(TurnState::Granted(_)))
    }

    /// Adds the same fetch to the queue of another client that waits for it.
    pub(super) fn share(&self, client: ClientAddress) {
        let mut table = self.turns.table();
        let is_there = table
            .queues
            .get(&client)
            .is_some_and(|queue| queue.waiting.iter().any(|wait| Arc::ptr_eq(wait, &self.wait)));
        if self.wait.is_waiting() && !is_there {
            // If that queue is full, the fetch waits in the others only.
            let _is_added = table.add(&self.turns.bounds, client, &self.wait);
        }
    }

    /// Notes that keys of this server were known before.
    pub(super) fn set_known(&self) {
        self.wait.is_known.send_replace(true);
        self.turns.table().grant(&self.turns.bounds);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.turns.table();
        match self.wait.state.send_replace(TurnState::Refused) {
            TurnState::Granted(client) => {
                table.under_way = table.under_way.saturating_sub(1);
                if let Some(queue) = table.queues.get_mut(&client) {
                    queue.under_way = queue.under_way.saturating_sub(1);
                }
            }
            TurnState::Waiting => table.leave(&self.wait),
            TurnState::Refused => {}
        }
        table.grant(&self.turns.bounds);
        table.remove_idle(&self.turns.bounds);
    }
}

impl WaitingFetch {
    fn is_waiting(&self) -> bool {
        *self.state.borrow() == TurnState::Waiting
    }
}

impl TurnTable {
    fn add(
        &mut self,
        bounds: &TurnBounds,
        client: ClientAddress,
        wait: &Arc<WaitingFetch>,
    ) -> bool {
        let length = self.queues.get(&client).map_or(0, |queue| queue.waiting.len());
        if length >= bounds.waiting_of_client {
            return false;
        }
        if self.waiting >= bounds.waiting && !self.displace(length) {
            return false;
        }
        self.queues.entry(client).or_default().waiting.push_back(Arc::clone(wait));
        self.waiting += 1;
        self.grant(bounds);
        true
    }

    /// Removes the last fetch from the longest queue, if that is longer than a queue of `length` will
    /// be with one more.
    fn displace(&mut self, length: usize) -> bool {
        let longest = self.queues.values_mut().max_by_key(|queue| queue.waiting.len());
        let Some(queue) = longest.filter(|queue| queue.waiting.len() > length + 1) else {
            return false;
        };
        if let Some(last) = queue.waiting.pop_back() {
            self.waiting -= 1;
            let is_elsewhere = self
                .queues
                .values()
                .any(|queue| queue.waiting.iter().any(|it| Arc::ptr_eq(it, &last)));
            if !is_elsewhere {
                last.state.send_replace(TurnState::Refused);
            }
        }
        true
    }

    /// Removes a fetch from all queues.
    fn leave(&mut self, wait: &Arc<WaitingFetch>) {
        for queue in self.queues.values_mut() {
            let before = queue.waiting.len();
            queue.waiting.retain(|it| !Arc::ptr_eq(it, wait));
            self.waiting = self.waiting.saturating_sub(before - queue.waiting.len());
        }
    }

    /// Grants all turns that can be granted.
    fn grant(&mut self, bounds: &TurnBounds) {
        while let Some((client, wait)) = self.next(bounds) {
            self.leave(&wait);
            self.under_way += 1;
            self.granted += 1;
            let granted = self.granted;
            let queue = self.queues.entry(client).or_default();
            queue.under_way += 1;
            queue.last_turn = granted;
            wait.state.send_replace(TurnState::Granted(client));
        }
    }

    /// The client and the fetch that are next. `None` if no turn can be granted.
    fn next(&self, bounds: &TurnBounds) -> Option<(ClientAddress, Arc<WaitingFetch>)> {
        if self.waiting == 0 || self.under_way >= bounds.turns {
            return None;
        }
        let only_known = self.under_way + bounds.for_known >= bounds.turns;
        let first = |queue: &ClientQueue| {
            let may = |wait: &&Arc<WaitingFetch>| !only_known || *wait.is_known.borrow();
            queue.waiting.iter().find(may).cloned()
        };
        let queues =
            self.queues.iter().filter(|(_, queue)| queue.under_way < bounds.turns_of_client);
        let candidates =
            queues.filter_map(|(client, queue)| Some((queue.last_turn, *client, first(queue)?)));
        let (_, client, wait) = candidates.min_by_key(|(last, client, _)| (*last, *client))?;
        Some((client, wait))
    }

    /// Removes clients without fetches, if there are many, those with the oldest last turn first.
    fn remove_idle(&mut self, bounds: &TurnBounds) {
        let is_idle = |queue: &ClientQueue| queue.under_way == 0 && queue.waiting.is_empty();
        if self.queues.len() <= bounds.idle_clients.saturating_mul(2) {
            return;
        }
        let mut idle: Vec<u64> = self
            .queues
            .values()
            .filter(|queue| is_idle(queue))
            .map(|queue| queue.last_turn)
            .collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(oldest) = idle.get(bounds.idle_clients) {
            self.queues.retain(|_, queue| !is_idle(queue) || queue.last_turn > *oldest);
        }
    }
}

#[cfg(test)]
mod tests;
