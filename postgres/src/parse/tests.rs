//! Tests of addresses.

use std::path::PathBuf;

use tokio_postgres::config::SslMode;

use super::*;

fn parsed(url: &str) -> Address {
    url.parse().unwrap()
}

fn refused(url: &str) -> AddressError {
    url.parse::<Address>().unwrap_err()
}

fn modes(url: &str) -> Vec<SslMode> {
    let address = parsed(url);
    address.hosts.iter().map(|it| address.config(it).get_ssl_mode()).collect()
}

#[test]
fn a_url_with_everything() {
    let address = parsed(
        "postgresql://us%40er@db1.example.org,[2001:db8::1]:6432,db%2D3:1/base?sslmode=verify-full\
         &sslrootcert=/etc/ca.pem&password_file=/run/pass&options=-c%20search_path%3Dhistory\
         &connect_timeout=2&target_session_attrs=read-write&application_name=one",
    );
    let hosts: Vec<_> = address.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["db1.example.org:5432", "[2001:db8::1]:6432", "db-3:1"]);
    assert_eq!(address.user, "us@er");
    assert_eq!(address.authority, Some(PathBuf::from("/etc/ca.pem")));
    assert_eq!(address.password_file, Some(PathBuf::from("/run/pass")));
    let config = address.config(&address.hosts[1]);
    assert_eq!(config.get_hosts().len(), 1);
    assert_eq!(config.get_ports(), [6432]);
    assert_eq!(config.get_dbname(), Some("base"));
    assert_eq!(config.get_options(), Some("-c search_path=history"));
    assert_eq!(config.get_application_name(), Some("one"));
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
    assert_eq!(parsed(&address.to_string()), address, "{address}");
}

#[test]
fn a_socket_in_a_folder() {
    for url in [
        "postgres://owner@%2Fvar%2Frun/base?port=5433",
        "postgres://owner@/base?host=/var/run&port=5433",
        "postgres:///base?host=%2Fvar%2Frun&user=owner&port=5433",
    ] {
        let address = parsed(url);
        assert_eq!(address.to_string(), "postgres://owner@%2Fvar%2Frun:5433/base", "{url}");
    }
}

/// Only servers of this machine are trusted unseen, unless the URL says so.
#[test]
fn connections_to_other_machines_are_verified() {
    use SslMode::{Disable, Require};
    let hosts = "postgres://user@localhost,127.0.0.2,[::1],%2Frun,db.example.org,10.0.0.1/base";
    assert_eq!(modes(hosts), [Disable, Disable, Disable, Disable, Require, Require]);
    for mode in ["require", "verify-ca", "verify-full"] {
        let modes = modes(&format!("{hosts}?sslmode={mode}"));
        assert_eq!(modes, [Require, Require, Require, Disable, Require, Require], "{mode}");
    }
    assert_eq!(modes(&format!("{hosts}?sslmode=disable")), [Disable; 6]);
}

/// Neither an error nor what is shown of an address contains the password.
#[test]
fn the_password_is_never_shown() {
    let address = parsed("postgres://user:s3cret@host/base");
    assert_eq!(address.password.as_deref(), Some(&b"s3cret"[..]));
    assert!(!format!("{address} {address:?}").contains("s3cret"));
    let address = parsed("postgres://user@host/base?password=s3cr%2Ft");
    assert_eq!(address.password.as_deref(), Some(&b"s3cr/t"[..]));
    assert!(!format!("{address} {address:?}").contains("s3cr"));
    for url in [
        "postgres://user:s3cret/with@host/base",
        "postgres://user:s3cret%FF@host:x/base",
        "postgres://user:s3cret@/base",
        "postgres://user:s3cret@host:s3cret/base",
        "postgres://user:s3cret@host/base?s3cret",
        "postgres://user:s3cret@host/base?sslmode=s3cret",
        "pg://user:s3cret@host/base",
    ] {
        let fault = refused(url);
        assert!(!format!("{fault} {fault:?}").contains("s3cret"), "{fault}");
    }
}

#[test]
fn what_is_refused() {
    for (url, fault) in [
        ("host=/run user=owner", AddressError::Scheme),
        ("postgres://host/base", AddressError::NoUser),
        ("postgres://user@/base", AddressError::NoHost),
        ("postgres://user@one,,two/base", AddressError::NoHost),
        ("postgres://user@host:99999/base", AddressError::Port),
        ("postgres://user@host/base?port=x", AddressError::Port),
        ("postgres://user@host/base?sslmode=prefer", AddressError::SslMode),
        ("postgres://user@host/base?sslmode=allow", AddressError::SslMode),
        ("postgres://user@host/b?sslmode=disable&sslrootcert=/ca", AddressError::NotEncrypted),
        ("postgres://user@h/b?target_session_attrs=any", AddressError::SessionAttributes),
        ("postgres://user@host/base?connect_timeout=0", AddressError::ConnectTimeout),
        ("postgres://user:one@host/base?password_file=/two", AddressError::TwoPasswords),
        ("postgres://user@host/base?sslcert=/cert", AddressError::Unknown("sslcert".to_owned())),
        ("postgres://user@host/%FF", AddressError::Encoding("the name of the database")),
    ] {
        assert_eq!(refused(url), fault, "{url}");
    }
}
