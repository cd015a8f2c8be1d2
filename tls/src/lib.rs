//! How the gateway, the history service and its command line authenticate to each other: by certificates
//! (mutual TLS), or by a shared token. Both are read from files, and read again when the files change. A
//! new version that is invalid is logged, and the previous one stays in use.
//!
//! The cryptography provider is always ring, whatever other crates are linked.

mod dial;
mod files;
mod token;
mod watched;

pub use dial::{ClientStream, Dialer};
pub use files::{ClientFiles, ServerFiles, http_client};
pub use token::Token;
pub use tokio_rustls::{
    TlsAcceptor,
    rustls::{ClientConfig, ServerConfig},
    server::TlsStream,
};
pub use watched::Watched;
