//! How the gateway, the history service and its command line know each other: by certificates
//! (TLS both ways), or by a token that they share. Everything is read from files, and read again
//! when the files change; what cannot be read then is said in the log, and what was read before
//! goes on.
//!
//! The cryptography is ring's, named here and nowhere chosen by what else is linked.

mod dial;
mod files;
mod token;
mod watched;

pub use dial::{ClientStream, Dialer};
pub use files::{ClientFiles, ServerFiles};
pub use token::Token;
pub use tokio_rustls::{
    TlsAcceptor,
    rustls::{ClientConfig, ServerConfig},
    server::TlsStream,
};
pub use watched::Watched;
