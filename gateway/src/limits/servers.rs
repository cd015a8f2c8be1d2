//! After authentication: what one server may have. So many requests at the same time, so many in
//! a second, and a queue of bounded length before both.
//!
//! Who waits is a future: dropped with its connection, it leaves the queue and has cost nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

use super::{LimitOptions, Limited, Limiter};
use crate::server_name::ServerName;

/// How often servers that have not asked for a while are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The least that anybody is told to wait.
const LEAST_RETRY: Duration = Duration::from_secs(1);

/// The servers that ask.
#[derive(Debug)]
pub(crate) struct Servers {
    concurrency: usize,
    queue: usize,
    queue_timeout: Duration,
    rate: f64,
    burst: f64,
    max_servers: usize,
    /// Those of all servers that are being answered.
    answering: Arc<Semaphore>,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    servers: HashMap<ServerName, Arc<Server>>,
    swept: Instant,
}

#[derive(Debug)]
struct Server {
    /// As many as may be answered or wait.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
}

/// Tokens: one a request, so many new ones a second, never more than a burst.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// A request's turn, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Place {
    _admitted: OwnedSemaphorePermit,
    _running: OwnedSemaphorePermit,
    answering: Option<OwnedSemaphorePermit>,
    /// Keeps the server in the table.
    _server: Arc<Server>,
}

impl Place {
    /// The answer is there: others may be answered. It is this server that has a place less until
    /// its answer has been taken.
    pub(crate) fn answered(&mut self) {
        self.answering = None;
    }
}

impl Servers {
    pub(super) fn new(options: &LimitOptions) -> Self {
        Self {
            concurrency: options.server_concurrency,
            queue: options.server_queue,
            queue_timeout: options.server_queue_timeout,
            rate: options.server_rate.into(),
            burst: options.server_burst.into(),
            max_servers: options.max_servers,
            answering: Arc::new(Semaphore::new(options.concurrency)),
            table: Mutex::new(Table { servers: HashMap::new(), swept: Instant::now() }),
        }
    }

    /// Whether a request of this server would find a place now, if only to wait in. Takes none.
    pub(crate) fn has_room(&self, name: &ServerName) -> Result<(), Limited> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.servers.get(name) {
            Some(server) if server.admitted.available_permits() == 0 => Err(self.queue_is_full()),
            _ => Ok(()),
        }
    }

    /// Waits for a server's turn, until the deadline at the latest. Then for everybody's: oldest
    /// first there as well, since no server has more than its turns in that queue, and it is too
    /// short for anybody's deadline to pass in it while answers come.
    pub(crate) async fn admit(
        &self,
        name: &ServerName,
        deadline: Instant,
    ) -> Result<Place, Limited> {
        let server = self.server(name)?;
        let Ok(admitted) = Arc::clone(&server.admitted).try_acquire_owned() else {
            return Err(self.queue_is_full());
        };
        let until = deadline.min(Instant::now() + self.queue_timeout);
        // Semaphores are fair: first come, first served.
        let running = timeout_at(until, Arc::clone(&server.running).acquire_owned()).await;
        let Ok(Ok(running)) = running else {
            return Err(self.limited(Limiter::ServerConcurrency, Duration::ZERO));
        };
        while let Err(wait) = self.take(&server) {
            let ready = Instant::now() + wait;
            if ready > until {
                return Err(self.limited(Limiter::ServerRate, wait));
            }
            sleep_until(ready).await;
        }
        let answering = timeout_at(until, Arc::clone(&self.answering).acquire_owned()).await;
        let Ok(Ok(answering)) = answering else {
            return Err(self.limited(Limiter::Concurrency, LEAST_RETRY));
        };
        let (_admitted, _running, answering) = (admitted, running, Some(answering));
        Ok(Place { _admitted, _running, answering, _server: server })
    }

    /// A token, or how long until there is one.
    fn take(&self, server: &Server) -> Result<(), Duration> {
        let mut bucket = server.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&mut bucket);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        // Never nothing: timers are no finer than that.
        let wait = Duration::from_secs_f64((1.0 - bucket.tokens) / self.rate);
        Err(wait.max(Duration::from_millis(1)))
    }

    fn fill(&self, bucket: &mut Bucket) {
        let now = Instant::now();
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * self.rate).min(self.burst);
        bucket.filled = now;
    }

    fn server(&self, name: &ServerName) -> Result<Arc<Server>, Limited> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = table.servers.get(name) {
            return Ok(Arc::clone(server));
        }
        let is_full = table.servers.len() >= self.max_servers;
        if is_full || table.swept.elapsed() >= SWEEP_EVERY {
            self.sweep(&mut table);
        }
        if table.servers.len() >= self.max_servers {
            return Err(self.limited(Limiter::Servers, LEAST_RETRY));
        }
        let server = Arc::new(Server {
            admitted: Arc::new(Semaphore::new(self.concurrency.saturating_add(self.queue))),
            running: Arc::new(Semaphore::new(self.concurrency)),
            bucket: Mutex::new(Bucket { tokens: self.burst, filled: Instant::now() }),
        });
        table.servers.insert(name.clone(), Arc::clone(&server));
        Ok(server)
    }

    /// Forgets the servers of which nothing is known that a new entry would not say. If there are
    /// too many others, those that ask nothing now are forgotten too: a name is cheap to have, and
    /// many of them must not shut out the rest.
    fn sweep(&self, table: &mut Table) {
        table.swept = Instant::now();
        let is_idle = |server: &Arc<Server>| Arc::strong_count(server) == 1;
        table.servers.retain(|_, server| {
            let mut bucket = server.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            self.fill(&mut bucket);
            !(is_idle(server) && bucket.tokens >= self.burst)
        });
        if table.servers.len() >= self.max_servers {
            table.servers.retain(|_, server| !is_idle(server));
        }
    }

    fn queue_is_full(&self) -> Limited {
        self.limited(Limiter::ServerQueue, self.queue_time())
    }

    /// How long a full queue takes.
    fn queue_time(&self) -> Duration {
        let queue = u32::try_from(self.queue).map_or(f64::MAX, f64::from);
        Duration::try_from_secs_f64(queue / self.rate).unwrap_or(self.queue_timeout)
    }

    fn limited(&self, limiter: Limiter, wait: Duration) -> Limited {
        Limited {
            limiter,
            retry_after: wait.clamp(LEAST_RETRY, self.queue_timeout.max(LEAST_RETRY)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn servers(change: impl FnOnce(&mut LimitOptions)) -> Servers {
        let mut options = LimitOptions {
            server_concurrency: 2,
            server_queue: 2,
            server_queue_timeout: Duration::from_secs(10),
            server_rate: 10,
            server_burst: 1_000,
            max_servers: 3,
            ..LimitOptions::default()
        };
        change(&mut options);
        Servers::new(&options)
    }

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }

    async fn limiter(servers: &Servers, from: &str, deadline: Instant) -> Limiter {
        servers.admit(&name(from), deadline).await.unwrap_err().limiter
    }

    #[tokio::test(start_paused = true)]
    async fn one_server_waits_and_others_do_not() {
        let servers = servers(|_| {});
        let a = name("a");
        let first = servers.admit(&a, late()).await.unwrap();
        let _second = servers.admit(&a, late()).await.unwrap();
        let mut third = Box::pin(servers.admit(&a, late()));
        let mut fourth = Box::pin(servers.admit(&a, late()));
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        // The queue is full; nobody else is concerned.
        assert_eq!(limiter(&servers, "a", late()).await, Limiter::ServerQueue);
        servers.admit(&name("b"), late()).now_or_never().unwrap().unwrap();
        assert_eq!(servers.has_room(&a).unwrap_err().limiter, Limiter::ServerQueue);
        servers.has_room(&name("b")).unwrap();
        servers.has_room(&name("c")).unwrap();
        // Who leaves the queue makes room in it.
        drop(third);
        servers.has_room(&a).unwrap();
        let mut fifth = Box::pin(servers.admit(&a, late()));
        assert!(poll!(&mut fifth).is_pending());
        drop(first);
        fourth.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_together_waits_too() {
        let servers = servers(|options| options.concurrency = 3);
        let soon = Instant::now() + Duration::from_secs(3);
        let mut places = Vec::new();
        for from in ["a", "a", "b"] {
            places.push(servers.admit(&name(from), late()).await.unwrap());
        }
        let b = name("b");
        let mut waiting = Box::pin(servers.admit(&b, late()));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(limiter(&servers, "c", soon).await, Limiter::Concurrency);
        places.remove(0);
        waiting.now_or_never().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_past_a_deadline() {
        let servers = servers(|_| {});
        let start = Instant::now();
        let _places = [
            servers.admit(&name("a"), late()).await.unwrap(),
            servers.admit(&name("a"), late()).await.unwrap(),
        ];
        let soon = start + Duration::from_secs(3);
        assert_eq!(limiter(&servers, "a", soon).await, Limiter::ServerConcurrency);
        assert_eq!(start.elapsed().as_secs(), 3);
        assert_eq!(limiter(&servers, "a", late()).await, Limiter::ServerConcurrency);
        assert_eq!(start.elapsed().as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_holds() {
        let servers = servers(|options| options.server_burst = 5);
        let start = Instant::now();
        for _ in 0..5 {
            servers.admit(&name("a"), late()).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            servers.admit(&name("a"), late()).await.unwrap();
        }
        let took = start.elapsed();
        assert!((1_990..2_100).contains(&took.as_millis()), "{took:?}");
        // Without the time to wait there is no point in waiting.
        let now = Instant::now();
        assert_eq!(limiter(&servers, "a", now).await, Limiter::ServerRate);
        assert_eq!(now.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(100)).await;
        for _ in 0..5 {
            servers.admit(&name("a"), now).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_forgets() {
        let servers = servers(|_| {});
        let a = servers.admit(&name("a"), late()).await.unwrap();
        let b = servers.admit(&name("b"), late()).await.unwrap();
        // One after another, any number of names.
        for nth in 0..100 {
            servers.admit(&name(&format!("s{nth}")), late()).await.unwrap();
        }
        let c = servers.admit(&name("c"), late()).await.unwrap();
        assert_eq!(servers.table.lock().unwrap().servers.len(), 3);
        assert_eq!(limiter(&servers, "d", late()).await, Limiter::Servers);
        drop((a, b, c));
        tokio::time::advance(SWEEP_EVERY).await;
        servers.admit(&name("d"), late()).await.unwrap();
        assert_eq!(servers.table.lock().unwrap().servers.len(), 1);
    }
}
