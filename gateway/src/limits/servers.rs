//! Limits for each server, after authentication: requests at the same time, requests per second,
//! and a queue of limited length before both.
//!
//! A waiting request is a future. When its connection is closed, the future is dropped: the request
//! leaves the queue, and no work is done for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

use super::{LimitOptions, Limited};
use crate::{limiter::Limiter, server_name::ServerName};

/// Pause between two removals of servers that have not sent requests for a while.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time after which a refused request should be repeated.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// All servers with recent requests, and the limits of each.
#[derive(Debug)]
pub(crate) struct Servers {
    concurrency: usize,
    queue: usize,
    queue_timeout: Duration,
    per_second: f64,
    burst: f64,
    max_servers: usize,
    /// One permit for each request, of any server, that may be answered at the same time.
    answering: Arc<Semaphore>,
    table: Mutex<ServerTable>,
}

#[derive(Debug)]
struct ServerTable {
    servers: HashMap<ServerName, Arc<ServerLimits>>,
    swept: Instant,
}

/// The limits of one server.
#[derive(Debug)]
struct ServerLimits {
    /// One permit for each request that may wait or be answered.
    admitted: Arc<Semaphore>,
    /// One permit for each request that may be answered.
    running: Arc<Semaphore>,
    bucket: Mutex<TokenBucket>,
}

/// A token bucket: each request takes one token.
#[derive(Debug)]
struct TokenBucket {
    tokens: f64,
    filled: Instant,
}

/// Permits a request to be answered. The server may send another one when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _admitted: OwnedSemaphorePermit,
    _running: OwnedSemaphorePermit,
    answering: Option<OwnedSemaphorePermit>,
    /// Keeps the server in the table.
    _server: Arc<ServerLimits>,
}

impl Permit {
    /// Lets a request of another server be answered. The server of this request still has one
    /// permit less, until its answer has been written.
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
            per_second: options.server_rate.into(),
            burst: options.server_burst.into(),
            max_servers: options.max_servers,
            answering: Arc::new(Semaphore::new(options.concurrency)),
            table: Mutex::new(ServerTable { servers: HashMap::new(), swept: Instant::now() }),
        }
    }

    /// Checks that a request of this server could at least wait, without taking a permit.
    pub(crate) fn check_queue(&self, name: &ServerName) -> Result<(), Limited> {
        match self.lock().servers.get(name) {
            Some(server) if server.admitted.available_permits() == 0 => Err(self.queue_is_full()),
            _ => Ok(()),
        }
    }

    /// Waits for a permit of the server, then for a token, then for a permit of all servers; until
    /// the deadline at the latest. Requests are served in the order of arrival. No server has more
    /// requests in the last queue than [`LimitOptions::server_concurrency`].
    pub(crate) async fn admit(
        &self,
        name: &ServerName,
        deadline: Instant,
    ) -> Result<Permit, Limited> {
        let server = self.server(name)?;
        let Ok(admitted) = Arc::clone(&server.admitted).try_acquire_owned() else {
            return Err(self.queue_is_full());
        };
        let until = deadline.min(Instant::now() + self.queue_timeout);
        let running = timeout_at(until, Arc::clone(&server.running).acquire_owned()).await;
        let Ok(Ok(running)) = running else {
            return Err(self.limited(Limiter::ServerConcurrency, Duration::ZERO));
        };
        while let Err(wait) = self.take_token(&server) {
            let ready = Instant::now() + wait;
            if ready > until {
                return Err(self.limited(Limiter::ServerRate, wait));
            }
            sleep_until(ready).await;
        }
        let answering = timeout_at(until, Arc::clone(&self.answering).acquire_owned()).await;
        let Ok(Ok(answering)) = answering else {
            return Err(self.limited(Limiter::Concurrency, MIN_RETRY_AFTER));
        };
        Ok(Permit {
            _admitted: admitted,
            _running: running,
            answering: Some(answering),
            _server: server,
        })
    }

    /// Takes a token. The error is the time until there is one.
    fn take_token(&self, server: &ServerLimits) -> Result<(), Duration> {
        let mut bucket = server.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&mut bucket);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second);
        // The resolution of timers: a shorter sleep could end before there is a token.
        Err(wait.max(Duration::from_millis(1)))
    }

    fn fill(&self, bucket: &mut TokenBucket) {
        let now = Instant::now();
        let since = now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * self.per_second).min(self.burst);
        bucket.filled = now;
    }

    fn server(&self, name: &ServerName) -> Result<Arc<ServerLimits>, Limited> {
        let mut table = self.lock();
        if let Some(server) = table.servers.get(name) {
            return Ok(Arc::clone(server));
        }
        let is_full = table.servers.len() >= self.max_servers;
        if is_full || table.swept.elapsed() >= SWEEP_INTERVAL {
            self.sweep(&mut table);
        }
        if table.servers.len() >= self.max_servers {
            return Err(self.limited(Limiter::Servers, MIN_RETRY_AFTER));
        }
        let server = Arc::new(ServerLimits {
            admitted: Arc::new(Semaphore::new(self.concurrency.saturating_add(self.queue))),
            running: Arc::new(Semaphore::new(self.concurrency)),
            bucket: Mutex::new(TokenBucket { tokens: self.burst, filled: Instant::now() }),
        });
        table.servers.insert(name.clone(), Arc::clone(&server));
        Ok(server)
    }

    /// Removes the servers without requests whose bucket is full: a new entry would be equal. If the
    /// table is still full, all servers without requests are removed, so that many names cannot shut
    /// out a server.
    fn sweep(&self, table: &mut ServerTable) {
        table.swept = Instant::now();
        let is_idle = |server: &Arc<ServerLimits>| Arc::strong_count(server) == 1;
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

    /// The time that a full queue takes.
    fn queue_time(&self) -> Duration {
        let queue = u32::try_from(self.queue).map_or(f64::MAX, f64::from);
        Duration::try_from_secs_f64(queue / self.per_second).unwrap_or(self.queue_timeout)
    }

    fn limited(&self, limiter: Limiter, wait: Duration) -> Limited {
        let longest = self.queue_timeout.max(MIN_RETRY_AFTER);
        Limited { limiter, retry_after: wait.clamp(MIN_RETRY_AFTER, longest) }
    }

    fn lock(&self) -> MutexGuard<'_, ServerTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
        // The queue is full, for this server only.
        assert_eq!(limiter(&servers, "a", late()).await, Limiter::ServerQueue);
        servers.admit(&name("b"), late()).now_or_never().unwrap().unwrap();
        assert_eq!(servers.check_queue(&a).unwrap_err().limiter, Limiter::ServerQueue);
        servers.check_queue(&name("b")).unwrap();
        servers.check_queue(&name("c")).unwrap();
        // A request that leaves the queue makes room in it.
        drop(third);
        servers.check_queue(&a).unwrap();
        let mut fifth = Box::pin(servers.admit(&a, late()));
        assert!(poll!(&mut fifth).is_pending());
        drop(first);
        fourth.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_all_servers_have_a_limit_too() {
        let servers = servers(|options| options.concurrency = 3);
        let soon = Instant::now() + Duration::from_secs(3);
        let mut permits = Vec::new();
        for from in ["a", "a", "b"] {
            permits.push(servers.admit(&name(from), late()).await.unwrap());
        }
        let b = name("b");
        let mut waiting = Box::pin(servers.admit(&b, late()));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(limiter(&servers, "c", soon).await, Limiter::Concurrency);
        permits.remove(0);
        waiting.now_or_never().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_waits_past_a_deadline() {
        let servers = servers(|_| {});
        let start = Instant::now();
        let _permits = [
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
        // A request that cannot get a token in time does not wait.
        let now = Instant::now();
        assert_eq!(limiter(&servers, "a", now).await, Limiter::ServerRate);
        assert_eq!(now.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(100)).await;
        for _ in 0..5 {
            servers.admit(&name("a"), now).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_servers_is_bounded() {
        let servers = servers(|_| {});
        let a = servers.admit(&name("a"), late()).await.unwrap();
        let b = servers.admit(&name("b"), late()).await.unwrap();
        // Any number of names, one after another.
        for nth in 0..100 {
            servers.admit(&name(&format!("s{nth}")), late()).await.unwrap();
        }
        let c = servers.admit(&name("c"), late()).await.unwrap();
        assert_eq!(servers.table.lock().unwrap().servers.len(), 3);
        assert_eq!(limiter(&servers, "d", late()).await, Limiter::Servers);
        drop((a, b, c));
        tokio::time::advance(SWEEP_INTERVAL).await;
        servers.admit(&name("d"), late()).await.unwrap();
        assert_eq!(servers.table.lock().unwrap().servers.len(), 1);
    }
}
