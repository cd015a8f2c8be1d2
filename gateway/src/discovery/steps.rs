//! Decides the next step of server discovery from the facts known so far. Without I/O.
//! <https://spec.matrix.org/v1.16/server-server-api/#resolving-server-names>

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::server_name::ServerName;

/// The port of a server whose name and delegation have none.
pub(crate) const DEFAULT_PORT: u16 = 8448;

/// The SRV services, in the order in which they are looked up. The second is deprecated.
pub(crate) const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// The facts known about a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The server that `/.well-known/matrix/server` names: `None` before it was asked for, and
    /// `Some(None)` if there is none.
    pub(crate) well_known: Option<Option<ServerName>>,
    /// The targets of each of the [`SERVICES`] looked up so far, in the order in which to try them.
    pub(crate) srv: Vec<Vec<(String, u16)>>,
}

/// The next step of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Request `/.well-known/matrix/server` from this host.
    WellKnown(String),
    /// Look up the SRV records of one of the [`SERVICES`] of a name.
    Srv(&'static str, String),
    /// Connect: all facts are known.
    Connect(Route),
}

/// How to reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The targets to connect to, in order, with their ports.
    pub(crate) targets: Vec<(Target, u16)>,
    /// The value of the `Host` header.
    pub(crate) host: String,
    /// The name that the certificate must be for. It is sent as SNI, unless it is an address.
    pub(crate) tls: Target,
}

/// A target of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Address(IpAddr),
    Name(String),
}

/// The next step towards `server`.
pub(crate) fn next(server: &ServerName, facts: &Facts) -> Step {
    let (host, port) = split(server);
    if let Some(route) = explicit(server, &host, port) {
        return Step::Connect(route);
    }
    let Some(well_known) = &facts.well_known else {
        return Step::WellKnown(server.as_str().to_owned());
    };
    // A delegation is followed once: the delegated server is not asked for another one.
    let server = well_known.as_ref().unwrap_or(server);
    let (host, port) = split(server);
    if let Some(route) = explicit(server, &host, port) {
        return Step::Connect(route);
    }
    let name = server.as_str();
    if let Some(targets) = facts.srv.iter().find(|targets| !targets.is_empty()) {
        let targets = targets.iter().map(|(name, port)| (Target::Name(name.clone()), *port));
        let targets = targets.collect();
        return Step::Connect(Route { targets, host: name.to_owned(), tls: host });
    }
    if let Some(service) = SERVICES.get(facts.srv.len()) {
        return Step::Srv(service, name.to_owned());
    }
    let targets = vec![(host.clone(), DEFAULT_PORT)];
    Step::Connect(Route { targets, host: name.to_owned(), tls: host })
}

/// The route to a name that is an address or has a port, so that no lookups are needed.
fn explicit(server: &ServerName, host: &Target, port: Option<u16>) -> Option<Route> {
    let port = match (host, port) {
        (_, Some(port)) => port,
        (Target::Address(_), None) => DEFAULT_PORT,
        (Target::Name(_), None) => return None,
    };
    let host = host.clone();
    Some(Route { targets: vec![(host.clone(), port)], host: server.to_string(), tls: host })
}

fn split(server: &ServerName) -> (Target, Option<u16>) {
    let (host, port) = server.host_and_port();
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    (address.map_or_else(|| Target::Name(host.to_owned()), Target::Address), port)
}

/// The data of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Srv {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    pub(crate) target: String,
    pub(crate) port: u16,
}

/// Orders records by RFC 2782: by priority, and among equal priorities by chance, according to weight.
/// `random(n)` returns a number from 0 to `n`, both included.
pub(crate) fn in_order(
    mut records: Vec<Srv>,
    mut random: impl FnMut(u32) -> u32,
) -> Vec<(String, u16)> {
    // By the RFC, records of weight zero are first in each group; otherwise they would never be drawn.
    // The order is reversed, because records are removed from the end.
    records.sort_by_key(|record| (Reverse(record.priority), Reverse(record.weight)));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.last().map(|record| record.priority) {
        let group = records.iter().rev().take_while(|record| record.priority == priority);
        let mut left = random(group.clone().map(|record| u32::from(record.weight)).sum());
        let drawn = group
            .enumerate()
            .find(|(_, record)| {
                let fits = left <= u32::from(record.weight);
                left = left.saturating_sub(u32::from(record.weight));
                fits
            })
            .map_or(0, |(drawn, _)| drawn);
        let record = records.remove(records.len() - 1 - drawn);
        ordered.push((record.target, record.port));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Target {
        Target::Address(text.parse().unwrap())
    }

    fn dns(text: &str) -> Target {
        Target::Name(text.to_owned())
    }

    fn connect(target: Target, port: u16, host: &str, tls: Target) -> Step {
        let (targets, host) = (vec![(target, port)], host.to_owned());
        Step::Connect(Route { targets, host, tls })
    }

    fn srv(host: &str, port: u16) -> Vec<(String, u16)> {
        vec![(host.to_owned(), port)]
    }

    #[test]
    fn names_with_an_address_or_a_port_need_no_lookup() {
        for (server, expected) in [
            ("1.2.3.4", connect(ip("1.2.3.4"), 8448, "1.2.3.4", ip("1.2.3.4"))),
            ("1.2.3.4:5", connect(ip("1.2.3.4"), 5, "1.2.3.4:5", ip("1.2.3.4"))),
            ("[2001:db8::1]", connect(ip("2001:db8::1"), 8448, "[2001:db8::1]", ip("2001:db8::1"))),
            ("[::1]:5", connect(ip("::1"), 5, "[::1]:5", ip("::1"))),
            ("h.example:5", connect(dns("h.example"), 5, "h.example:5", dns("h.example"))),
            ("256.1.1.1:5", connect(dns("256.1.1.1"), 5, "256.1.1.1:5", dns("256.1.1.1"))),
        ] {
            assert_eq!(next(&name(server), &Facts::default()), expected, "{server}");
        }
    }

    #[test]
    fn other_names_are_looked_up_step_by_step() {
        let to = |delegated: &str| Some(Some(name(delegated)));
        for (what, well_known, srv, expected) in [
            ("first", None, vec![], Step::WellKnown("h.example".to_owned())),
            (
                "delegated to an address",
                to("1.2.3.4"),
                vec![],
                connect(ip("1.2.3.4"), 8448, "1.2.3.4", ip("1.2.3.4")),
            ),
            (
                "delegated to an address and a port",
                to("[::2]:5"),
                vec![],
                connect(ip("::2"), 5, "[::2]:5", ip("::2")),
            ),
            (
                "delegated to a name and a port",
                to("d.example:5"),
                vec![],
                connect(dns("d.example"), 5, "d.example:5", dns("d.example")),
            ),
            (
                "delegated to a name",
                to("d.example"),
                vec![],
                Step::Srv(SERVICES[0], "d.example".to_owned()),
            ),
            (
                "which has no such record",
                to("d.example"),
                vec![vec![]],
                Step::Srv(SERVICES[1], "d.example".to_owned()),
            ),
            (
                "but has one",
                to("d.example"),
                vec![srv("t.example", 7)],
                connect(dns("t.example"), 7, "d.example", dns("d.example")),
            ),
            (
                "or has the deprecated one",
                to("d.example"),
                vec![vec![], srv("t.example", 7)],
                connect(dns("t.example"), 7, "d.example", dns("d.example")),
            ),
            (
                "or neither",
                to("d.example"),
                vec![vec![], vec![]],
                connect(dns("d.example"), 8448, "d.example", dns("d.example")),
            ),
            ("not delegated", Some(None), vec![], Step::Srv(SERVICES[0], "h.example".to_owned())),
            (
                "with a record of its own",
                Some(None),
                vec![srv("t.example", 7)],
                connect(dns("t.example"), 7, "h.example", dns("h.example")),
            ),
            (
                "with the deprecated one of its own",
                Some(None),
                vec![vec![], srv("t.example", 7)],
                connect(dns("t.example"), 7, "h.example", dns("h.example")),
            ),
            (
                "with nothing at all",
                Some(None),
                vec![vec![], vec![]],
                connect(dns("h.example"), 8448, "h.example", dns("h.example")),
            ),
        ] {
            assert_eq!(next(&name("h.example"), &Facts { well_known, srv }), expected, "{what}");
        }
    }

    #[test]
    fn service_records_are_tried_in_the_order_of_rfc_2782() {
        let record = |priority, weight, target: &str| Srv {
            priority,
            weight,
            target: target.to_owned(),
            port: 1,
        };
        let order = |random: fn(u32) -> u32| {
            let records =
                vec![record(2, 9, "last"), record(1, 3, "b"), record(1, 0, "a"), record(1, 7, "c")];
            let ordered = in_order(records, random);
            ordered.into_iter().map(|(target, _)| target).collect::<Vec<_>>()
        };
        assert_eq!(order(|_| 0), ["a", "b", "c", "last"]);
        assert_eq!(order(|sum| sum), ["c", "b", "a", "last"]);
        assert_eq!(order(|sum| sum.min(2)), ["b", "c", "a", "last"]);
    }
}
