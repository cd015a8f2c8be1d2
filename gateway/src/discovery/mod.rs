//! Server discovery: finds the address of another server, its `Host` header and the name in its
//! certificate by the rules of the specification, and sends requests to it.
//!
//! `steps` makes the decisions, without I/O. `network` resolves names and connects. `well_known` and
//! `https` send requests. Two caches of limited size are kept: of delegations (here), and of DNS
//! responses (in the resolver).

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
    https::{HttpsRequest, within},
    network::Connector,
    steps::{Facts, Route, Step},
    well_known::WellKnownServer,
};
use crate::{back_off::back_off, clock::Clock, random::Random, server_name::ServerName};

/// Most hosts whose delegations are kept.
const MAX_HOSTS: usize = 10_000;

/// Finds other servers and sends requests to them.
#[derive(Debug)]
pub(crate) struct Discovery {
    connector: Connector,
    delegations: Cache<String, Delegation>,
    clock: Clock,
    random: Random,
}

/// Where a host delegates to.
#[derive(Clone, Debug)]
struct Delegation {
    /// `None` if the host does not delegate, or could not be asked.
    to: Option<ServerName>,
    /// How long this is used, by the steady clock.
    until: Duration,
    /// Number of failed requests in a row.
    failures: u32,
}

impl Discovery {
    pub(crate) fn new(network: Network, clock: Clock, random: Random) -> Self {
        let delegations = Cache::new(MAX_HOSTS);
        Self { connector: network.connector(), delegations, clock, random }
    }

    /// Sends a GET request. Returns the body of a response with status 200.
    pub(crate) async fn get(
        &self,
        server: &ServerName,
        target: &str,
        max_bytes: usize,
    ) -> Result<Bytes, Unreachable> {
        let target = target.to_owned();
        let request = HttpsRequest { method: Method::GET, target, body: Vec::new(), max_bytes };
        self.send(server, request).await
    }

    /// Sends a POST request with a JSON body. Returns the body of a response with status 200.
    pub(crate) async fn post(
        &self,
        server: &ServerName,
        target: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Result<Bytes, Unreachable> {
        let target = target.to_owned();
        self.send(server, HttpsRequest { method: Method::POST, target, body, max_bytes }).await
    }

    async fn send(&self, server: &ServerName, request: HttpsRequest) -> Result<Bytes, Unreachable> {
        let sending = async {
            let route = self.route(server).await;
            self.connector.send(&route, request).await
        };
        let response = within(self.connector.timeout, sending).await?;
        if response.status != 200 {
            return Err(Unreachable::Status(response.status.as_u16()));
        }
        Ok(response.body)
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
        // A slow host leaves time for the steps after this one.
        let timeout = self.connector.timeout / 3;
        let delegation = match within(timeout, fetching).await {
            Ok(WellKnownServer { server, lifetime }) => {
                let until = now.saturating_add(lifetime);
                Delegation { to: Some(server), until, failures: 0 }
            }
            Err(error) => {
                tracing::debug!(%error, host, "no delegation");
                let failures = known.map_or(0, |known| known.failures).saturating_add(1);
                let until = now.saturating_add(back_off(failures, &self.random));
                Delegation { to: None, until, failures }
            }
        };
        self.delegations.insert(host.to_owned(), delegation.clone());
        delegation.to
    }
}
