//! Where is that server? Finds the address, the `Host` header and the certificate's name of
//! another server by the specification's rules, and asks it something.
//!
//! `steps` decides, without asking anybody; `network` resolves and connects; `well_known` and
//! `https` speak. What is remembered is bounded: where hosts delegate to (here) and what name
//! servers said (in the resolver).

mod addresses;
mod https;
mod network;
mod steps;
mod well_known;

use std::time::Duration;

use axum::{body::Bytes, http::Method};
use quick_cache::sync::Cache;

pub use self::network::{Dial, Network};
pub(crate) use self::network::Unreachable;
use self::{
    https::{Question, within},
    network::Connector,
    steps::{Facts, Route, Step},
};
use crate::{clock::Clock, server_name::ServerName};

/// How many hosts' delegations are remembered.
const REMEMBERED_HOSTS: usize = 10_000;

/// Asks other servers.
#[derive(Debug)]
pub(crate) struct Discovery {
    connector: Connector,
    delegations: Cache<String, Delegation>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Delegation {
    to: Option<ServerName>,
    until_ms: u64,
    /// In a row.
    failures: u32,
}

impl Discovery {
    pub(crate) fn new(network: Network, clock: Clock) -> Result<Self, rustls::Error> {
        let delegations = Cache::new(REMEMBERED_HOSTS);
        Ok(Self { connector: network.connector()?, delegations, clock })
    }

    /// The body of a server's answer with status 200.
    pub(crate) async fn get(
        &self,
        server: &ServerName,
        target: &str,
        max_bytes: usize,
    ) -> Result<Bytes, Unreachable> {
        let (target, body) = (target.to_owned(), Vec::new());
        self.ask(server, Question { method: Method::GET, target, body, max_bytes }).await
    }

    /// The same, having sent it JSON.
    pub(crate) async fn post(
        &self,
        server: &ServerName,
        target: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Bytes, Unreachable> {
        let target = target.to_owned();
        self.ask(server, Question { method: Method::POST, target, body, max_bytes }).await
    }

    async fn ask(&self, server: &ServerName, question: Question) -> Result<Bytes, Unreachable> {
        // The well-known file has its own time: a slow one leaves some for what comes after it.
        let route = self.route(server).await?;
        let asking = self.connector.ask(&route, question);
        let answer = within(self.connector.timeout, asking).await?;
        if answer.status != 200 {
            return Err(Unreachable::Status(answer.status.as_u16()));
        }
        Ok(answer.body)
    }

    async fn route(&self, server: &ServerName) -> Result<Route, Unreachable> {
        let mut facts = Facts::default();
        loop {
            match steps::next(server, &facts) {
                Step::WellKnown(host) => facts.well_known = Some(self.delegation(&host).await),
                Step::Srv(service, name) => {
                    let asking = async { Ok(self.connector.srv(service, &name).await) };
                    facts.srv.push(within(self.connector.timeout, asking).await?);
                }
                Step::Connect(route) => return Ok(route),
            }
        }
    }

    async fn delegation(&self, host: &str) -> Option<ServerName> {
        let now_ms = self.clock.now_ms();
        let known = self.delegations.get(host);
        if let Some(known) = known.as_ref().filter(|known| now_ms < known.until_ms) {
            return known.to.clone();
        }
        let fetching = well_known::fetch(&self.connector, host, now_ms);
        let (to, lifetime, failures) = match within(self.connector.timeout, fetching).await {
            Ok((server, lifetime)) => (Some(server), lifetime, 0),
            Err(error) => {
                tracing::debug!(%error, host, "no delegation");
                let failures = known.map_or(0, |known| known.failures).saturating_add(1);
                (None, well_known::failure_lifetime(failures), failures)
            }
        };
        let until_ms = now_ms.saturating_add(milliseconds(lifetime));
        self.delegations.insert(host.to_owned(), Delegation { to: to.clone(), until_ms, failures });
        to
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
