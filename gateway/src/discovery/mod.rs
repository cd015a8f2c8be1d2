//! Where is that server? Finds the address, the `Host` header and the certificate's name of
//! another server by the specification's rules, and asks it something.
//!
//! `steps` decides, without asking anybody; `network` resolves and connects; `well_known` and
//! `https` speak. What is remembered is bounded: where hosts delegate to (here) and what name
//! servers said (in the resolver).

mod addresses;
mod ended;
mod https;
mod network;
mod steps;
mod well_known;

use std::time::Duration;

use axum::{body::Bytes, http::Method};
use quick_cache::sync::Cache;

pub(crate) use self::network::Unreachable;
pub use self::network::{Dial, Network};
use self::{
    https::{Question, within},
    network::Connector,
    steps::{Facts, Route, Step},
};
use crate::{back_off::back_off, clock::Clock, random::Random, server_name::ServerName};

/// How many hosts' delegations are remembered.
const REMEMBERED_HOSTS: usize = 10_000;

/// Asks other servers.
#[derive(Debug)]
pub(crate) struct Discovery {
    connector: Connector,
    delegations: Cache<String, Delegation>,
    clock: Clock,
    random: Random,
}

#[derive(Clone, Debug)]
struct Delegation {
    to: Option<ServerName>,
    /// By the steady clock.
    until: Duration,
    /// In a row.
    failures: u32,
}

impl Discovery {
    pub(crate) fn new(network: Network, clock: Clock, random: Random) -> Self {
        let delegations = Cache::new(REMEMBERED_HOSTS);
        Self { connector: network.connector(), delegations, clock, random }
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
        let asking = async {
            let route = self.route(server).await;
            self.connector.ask(&route, question).await
        };
        let answer = within(self.connector.timeout, asking).await?;
        if answer.status != 200 {
            return Err(Unreachable::Status(answer.status.as_u16()));
        }
        Ok(answer.body)
    }

    async fn route(&self, server: &ServerName) -> Route {
        let mut facts = Facts::default();
        loop {
            match steps::next(server, &facts) {
                Step::WellKnown(host) => facts.well_known = Some(self.delegation(&host).await),
                Step::Srv(service, name) => {
                    facts.srv.push(self.connector.srv(service, &name).await);
                }
                Step::Connect(route) => return route,
            }
        }
    }

    async fn delegation(&self, host: &str) -> Option<ServerName> {
        let now = self.clock.steady();
        let known = self.delegations.get(host);
        if let Some(known) = known.as_ref().filter(|known| now < known.until) {
            return known.to.clone();
        }
        let fetching = well_known::fetch(&self.connector, host, self.clock.now_ms());
        // A slow one leaves time for what comes after it.
        let timeout = self.connector.timeout / 3;
        let (to, lifetime, failures) = match within(timeout, fetching).await {
            Ok((server, lifetime)) => (Some(server), lifetime, 0),
            Err(error) => {
                tracing::debug!(%error, host, "no delegation");
                let failures = known.map_or(0, |known| known.failures).saturating_add(1);
                (None, back_off(failures, &self.random), failures)
            }
        };
        let until = now.saturating_add(lifetime);
        self.delegations.insert(host.to_owned(), Delegation { to: to.clone(), until, failures });
        to
    }
}
