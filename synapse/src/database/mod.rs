//! PostgreSQL: connections, and short transactions that only read.
//!
//! One file for each thing that is read, with the SQL beside the type of its rows.

pub(crate) mod caches;
pub(crate) mod digest;
pub(crate) mod new_rows;
pub(crate) mod positions;
pub(crate) mod room_sizes;
pub(crate) mod rooms_state;
pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod server_keys;
pub(crate) mod small_tables;
pub(crate) mod state;

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::Context as _;
use backscroll_postgres::{Tls, notice_lost_servers, read_secret};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, IsolationLevel, Transaction, config::SslMode};

/// A transaction ends after this time, whatever happens: a longer one would keep vacuum from removing
/// old rows.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection over which sent data is not received for this time is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Longest time for a statement, unless a connection is for pages, whose size can be chosen.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// What PostgreSQL is told when a connection begins. If the follower is stopped in the middle of a
/// transaction, the server ends it.
const SESSION: &str = "set default_transaction_read_only = on; \
                       set idle_in_transaction_session_timeout = '30s'; \
                       set client_encoding = 'UTF8'; set timezone = 'UTC'";

/// Where the database is, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Database")]
pub(crate) struct DatabaseFlags {
    /// Synapse's database: postgresql://USER@HOST:PORT/NAME. Several hosts may be given, separated by
    /// commas; the first that answers is used. `?sslmode=require` demands TLS. Required, except for
    /// `check --role-sql`.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_DATABASE", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<String>,

    /// The database with the state groups, if Synapse keeps them in another one (`databases` in its
    /// configuration). The same as --database by default.
    #[arg(
        long,
        env = "BACKSCROLL_SYNAPSE_STATE_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) state_database: Option<String>,

    /// A file with the password of the role. Without it, the password of the URL is used.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) database_password_file: Option<PathBuf>,

    /// The authority that signed the certificates of the database servers, PEM. With it, TLS is
    /// required, and the certificate must be for the host of the URL. Without it, `sslmode=require`
    /// trusts the public authorities.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_DATABASE_CA", value_name = "FILE")]
    pub(crate) database_ca: Option<PathBuf>,
}

/// Synapse's database, and the one with its state groups, which may be the same.
#[derive(Clone, Debug)]
pub(crate) struct Databases {
    /// The database with the events.
    pub(crate) main: Database,
    /// The database with the state groups.
    pub(crate) state: Database,
}

/// How to connect to a database. The password is read again each time.
#[derive(Clone)]
pub(crate) struct Database {
    config: Config,
    password_file: Option<PathBuf>,
    tls: Tls,
}

/// One connection. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
}

impl DatabaseFlags {
    /// Parses the URLs, and reads the file of the authority.
    ///
    /// # Errors
    /// When a URL is not valid, or a file cannot be used.
    pub(crate) fn into_databases(self) -> anyhow::Result<Databases> {
        let Self { database, state_database, database_password_file, database_ca } = self;
        let tls = Tls::new(database_ca.as_deref()).context("--database-ca")?;
        let open = |url: &str| {
            let mut config: Config = url.parse().context(
                "not a URL such as postgresql://backscroll_follower@127.0.0.1:5432/synapse",
            )?;
            if database_ca.is_some() {
                config.ssl_mode(SslMode::Require);
            } else if config.get_ssl_mode() == SslMode::Prefer {
                // TLS to a server whose certificate nobody has checked protects from nobody.
                config.ssl_mode(SslMode::Disable);
            }
            config.application_name("backscroll-synapse").connect_timeout(CONNECT_TIMEOUT);
            notice_lost_servers(&mut config, LOST_AFTER);
            let password_file = database_password_file.clone();
            anyhow::Ok(Database { config, password_file, tls: tls.clone() })
        };
        let database = database.context("it is missing")?;
        let main = open(&database)?;
        let state = state_database.as_deref().map(open).transpose().context("--state-database")?;
        Ok(Databases { state: state.unwrap_or_else(|| main.clone()), main })
    }
}

impl Database {
    /// Opens a connection.
    ///
    /// # Errors
    /// When no server answers, or it refuses the role.
    pub(crate) async fn connect(&self) -> anyhow::Result<Session> {
        self.connect_for(STATEMENT_TIMEOUT).await
    }

    /// Opens a connection whose statements are cancelled after `statement_timeout`.
    ///
    /// # Errors
    /// When no server answers, or it refuses the role.
    pub(crate) async fn connect_for(&self, statement_timeout: Duration) -> anyhow::Result<Session> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            config.password(read_secret(path).context("--database-password-file")?);
        }
        let connecting = config.connect(self.tls.clone());
        let (client, connection) = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .context("PostgreSQL did not answer in time")?
            .context("cannot connect to PostgreSQL")?;
        // It ends when the client is dropped. Its error is that of the statement under way.
        drop(tokio::spawn(connection));
        let milliseconds = statement_timeout.as_millis();
        let prepare = format!("{SESSION}; set statement_timeout = {milliseconds}");
        client.batch_execute(&prepare).await.context("cannot prepare the connection")?;
        Ok(Session { client })
    }
}

impl Session {
    /// Begins a transaction that sees the database at one moment, and cannot write. It ends when it is
    /// dropped. The caller ends it within [`TRANSACTION_TIMEOUT`].
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) async fn begin(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        let builder = self.client.build_transaction();
        builder.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}
