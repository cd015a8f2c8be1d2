//! The command `check`: can this database be followed? One sentence for each finding, with the SQL that
//! mends it.

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::Context as _;

use crate::database::{
    DatabaseFlags, Databases, Session,
    schema::{self, Facts, SynapseSchema, TABLES},
};

/// Why a database cannot be followed: trying again would not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unfollowable(pub(crate) String);

/// The role and its rights, as SQL for `psql`.
const ROLE_SQL: &str = include_str!("role.sql");
/// The lowest schema that can be followed: the first with all streams.
const MIN_SCHEMA: i32 = 72;
/// The schema that this version knows. A later one can be followed if Synapse says that programs of this
/// schema may use it.
const KNOWN_SCHEMA: i32 = 94;
/// The lowest version of PostgreSQL: the first that computes digests (`bit_xor`).
const MIN_POSTGRESQL: i32 = 140_000;
/// Background updates of old versions of Synapse without which a column cannot be read as it is.
const BLOCKING_UPDATES: [&str; 3] =
    ["populate_stream_ordering2", "index_stream_ordering2", "replace_stream_ordering_column"];

/// The flags of the command `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one line for each finding. The exit code is 0 if the database can be followed, and 1 otherwise.
Run it after each upgrade of Synapse, before `follow` is started again.")]
pub(crate) struct CheckArgs {
    /// Print the SQL that creates the role, and do nothing else. It needs no --database.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_ROLE_SQL")]
    role_sql: bool,

    #[command(flatten)]
    database: DatabaseFlags,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// It is as it should be.
    Good,
    /// It can be followed, but the operator should know.
    Warning,
    /// It cannot be followed.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    text: String,
    /// The SQL that mends it, if there is any.
    sql: Option<String>,
}

impl Finding {
    fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, text: text.into(), sql: None }
    }

    fn with_sql(mut self, sql: String) -> Self {
        self.sql = Some(sql);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Good => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{word}: {}", self.text)?;
        match &self.sql {
            Some(sql) => write!(f, "\n    {sql}"),
            None => Ok(()),
        }
    }
}

/// Runs the command. Returns whether the database can be followed.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    if args.role_sql {
        out.write_all(ROLE_SQL.as_bytes())?;
        return Ok(true);
    }
    drop(out);
    let databases = args.database.into_databases().context("cannot use --database")?;
    let findings = findings(&databases).await?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let is_good = findings.iter().all(|it| it.severity != Severity::Error);
    let end = if is_good { "can be followed" } else { "cannot be followed" };
    writeln!(out, "The database {end}.")?;
    Ok(is_good)
}

/// Checks that the databases can be followed. Logs warnings.
///
/// # Errors
/// [`Unfollowable`], with all findings that forbid it; or when the database does not answer.
pub(crate) async fn require(databases: &Databases) -> anyhow::Result<()> {
    let findings = findings(databases).await?;
    for finding in findings.iter().filter(|it| it.severity == Severity::Warning) {
        tracing::warn!("{}", finding.text);
    }
    let errors = findings.iter().filter(|it| it.severity == Severity::Error);
    let errors: Vec<String> = errors.map(ToString::to_string).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let text = format!("the database cannot be followed:\n{}", errors.join("\n"));
    Err(Unfollowable(text).into())
}

async fn findings(databases: &Databases) -> anyhow::Result<Vec<Finding>> {
    let mut session = databases.main.connect().await?;
    let main = facts(&mut session).await?;
    let mut findings = about_server(&main);
    findings.extend(about_tables(&main, false));
    let mut state_session = databases.state.connect().await.context("--state-database")?;
    let state = facts(&mut state_session).await.context("--state-database")?;
    findings.extend(about_tables(&state, true));
    if findings.iter().any(|it| it.severity == Severity::Error) {
        return Ok(findings);
    }
    let transaction = session.begin().await?;
    let schema = schema::synapse_schema(&transaction).await?;
    let first = schema::backend(&transaction).await?;
    transaction.commit().await?;
    findings.extend(about_schema(&schema));
    let transaction = session.begin().await?;
    let second = schema::backend(&transaction).await?;
    let names = schema::server_names(&transaction).await?;
    transaction.commit().await?;
    if first != second {
        let text = "a pooler gives each transaction another connection, so the time-outs that the \
                    follower sets do not hold: connect to PostgreSQL itself, or use a pool with \
                    pool_mode = session";
        findings.push(Finding::new(Severity::Warning, text));
    }
    let names: Vec<String> = names.into_iter().collect();
    let text = match names.as_slice() {
        [] => "no event of a local user is among the last 1,000".to_owned(),
        [name] => format!("local users are of the server {name}"),
        names => format!("the last local events are of several servers: {}", names.join(", ")),
    };
    let severity = if names.len() > 1 { Severity::Warning } else { Severity::Good };
    findings.push(Finding::new(severity, text));
    Ok(findings)
}

async fn facts(session: &mut Session) -> anyhow::Result<Facts> {
    let transaction = session.begin().await?;
    let facts = schema::facts(&transaction).await?;
    transaction.commit().await?;
    Ok(facts)
}

fn about_server(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let major = facts.server_version / 10_000;
    let version = if facts.server_version < MIN_POSTGRESQL {
        let text = format!("PostgreSQL {major} is too old: 14 or later is needed");
        Finding::new(Severity::Error, text)
    } else {
        Finding::new(Severity::Good, format!("PostgreSQL {major}"))
    };
    findings.push(version);
    if facts.is_superuser {
        let text = format!(
            "the role {} is a superuser: follow with a role that may only read (see --role-sql)",
            facts.role
        );
        findings.push(Finding::new(Severity::Error, text));
    }
    if facts.is_replica {
        let text = "the server is a replica: what it receives late is served late, and it may cancel \
                    statements (set hot_standby_feedback = on, or raise max_standby_streaming_delay)";
        findings.push(Finding::new(Severity::Warning, text));
    }
    findings
}

fn about_tables(facts: &Facts, is_state: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let role = &facts.role;
    let mut unreadable = Vec::new();
    let mut writable = Vec::new();
    for table in TABLES.iter().filter(|it| it.is_state == is_state) {
        let name = table.name;
        let Some(found) = facts.tables.get(name) else {
            let (severity, why) = match (table.is_required, is_state) {
                (false, _) => (Severity::Good, "this version of Synapse does not have it"),
                (true, false) => (
                    Severity::Error,
                    "this is not a database of Synapse, or one of a version that is not supported",
                ),
                (true, true) => (
                    Severity::Error,
                    "Synapse keeps its state groups elsewhere: give --state-database",
                ),
            };
            findings.push(Finding::new(severity, format!("there is no table {name}: {why}")));
            continue;
        };
        for (column, kind) in table.columns {
            match found.columns.get(*column) {
                Some(found) if found == kind => {}
                Some(found) => {
                    let text = format!("the column {name}.{column} is of type {found}, not {kind}");
                    findings.push(Finding::new(Severity::Error, text));
                }
                None => {
                    let text = format!("the table {name} has no column {column}");
                    findings.push(Finding::new(Severity::Error, text));
                }
            }
        }
        if !found.is_readable {
            unreadable.push(name);
        }
        if found.is_writable && !facts.is_superuser {
            writable.push(name);
        }
    }
    if !unreadable.is_empty() {
        let names = unreadable.join(", ");
        let text = format!("the role {role} may not read {names}");
        let sql = format!("grant select on {names} to {role};");
        findings.push(Finding::new(Severity::Error, text).with_sql(sql));
    }
    if !writable.is_empty() {
        let names = writable.join(", ");
        let text = format!("the role {role} may change {names}: it must only be able to read");
        let sql = format!("revoke insert, update, delete, truncate on {names} from {role};");
        findings.push(Finding::new(Severity::Error, text).with_sql(sql));
    }
    if findings.iter().all(|it| it.severity == Severity::Good) {
        let what = if is_state { "the tables of state groups" } else { "the tables of events" };
        let text = format!("the role {role} may read {what}, and may not change them");
        findings.push(Finding::new(Severity::Good, text));
    }
    findings
}

fn about_schema(schema: &SynapseSchema) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (Some(version), Some(compat)) = (schema.version, schema.compat_version) else {
        let text = "Synapse has not noted the version of its schema";
        return vec![Finding::new(Severity::Error, text)];
    };
    let finding = if version < MIN_SCHEMA {
        let text =
            format!("schema {version} is too old: upgrade Synapse to schema {MIN_SCHEMA} or later");
        Finding::new(Severity::Error, text)
    } else if compat > KNOWN_SCHEMA {
        let text = format!(
            "schema {version} needs programs that know schema {compat}, and this version knows \
             {KNOWN_SCHEMA}: upgrade backscroll-synapse"
        );
        Finding::new(Severity::Error, text)
    } else if version > KNOWN_SCHEMA {
        let text = format!(
            "schema {version} is later than {KNOWN_SCHEMA}, which this version knows; Synapse says that \
             programs of schema {compat} and later may use it"
        );
        Finding::new(Severity::Warning, text)
    } else {
        Finding::new(Severity::Good, format!("schema {version}, usable from {compat} on"))
    };
    findings.push(finding);
    for update in BLOCKING_UPDATES {
        if schema.background_updates.contains(update) {
            let text = format!(
                "the background update {update} has not ended: wait until Synapse has done it (select \
                 update_name from background_updates)"
            );
            findings.push(Finding::new(Severity::Error, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::schema::TableFound;

    /// A database that can be followed.
    fn good() -> Facts {
        let tables = TABLES.iter().map(|table| {
            let columns = table.columns.iter();
            let columns = columns.map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()));
            let found =
                TableFound { columns: columns.collect(), is_readable: true, is_writable: false };
            (table.name.to_owned(), found)
        });
        Facts {
            server_version: 150_004,
            role: "reader".to_owned(),
            is_superuser: false,
            is_replica: false,
            tables: tables.collect(),
        }
    }

    fn errors(findings: &[Finding]) -> Vec<String> {
        let errors = findings.iter().filter(|it| it.severity == Severity::Error);
        errors.map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_database_has_no_errors() {
        let facts = good();
        assert_eq!(errors(&about_server(&facts)), Vec::<String>::new());
        assert_eq!(errors(&about_tables(&facts, false)), Vec::<String>::new());
        assert_eq!(errors(&about_tables(&facts, true)), Vec::<String>::new());
    }

    #[test]
    fn a_role_that_may_write_gets_the_sql_that_mends_it() {
        let mut facts = good();
        facts.tables.get_mut("events").unwrap().is_writable = true;
        let [text] = &errors(&about_tables(&facts, false))[..] else { panic!() };
        assert!(text.contains("revoke insert, update, delete, truncate on events from reader;"));
        facts.is_superuser = true;
        assert_eq!(errors(&about_server(&facts)).len(), 1);
    }

    #[test]
    fn tables_that_cannot_be_read_are_granted() {
        let mut facts = good();
        facts.tables.get_mut("events").unwrap().is_readable = false;
        facts.tables.get_mut("rooms").unwrap().is_readable = false;
        let [text] = &errors(&about_tables(&facts, false))[..] else { panic!() };
        assert!(text.contains("grant select on events, rooms to reader;"), "{text}");
    }

    #[test]
    fn missing_tables_and_other_columns_are_named() {
        let mut facts = good();
        facts.tables.remove("room_ban_redactions");
        assert_eq!(errors(&about_tables(&facts, false)), Vec::<String>::new());
        facts.tables.remove("ex_outlier_stream");
        let columns = &mut facts.tables.get_mut("events").unwrap().columns;
        columns.insert("stream_ordering".to_owned(), "int4".to_owned());
        columns.remove("outlier");
        let text = errors(&about_tables(&facts, false)).join("\n");
        for part in
            ["no table ex_outlier_stream", "stream_ordering is of type int4", "no column outlier"]
        {
            assert!(text.contains(part), "{text}");
        }
        facts.tables.remove("state_groups_state");
        assert!(errors(&about_tables(&facts, true)).join("").contains("--state-database"));
    }

    #[test]
    fn schemas_are_followed_that_synapse_allows() {
        let schema = |version, compat| SynapseSchema {
            version: Some(version),
            compat_version: Some(compat),
            background_updates: ["populate_stream_ordering2".to_owned()].into(),
        };
        for (version, compat, count) in
            [(94, 84, 1), (72, 69, 1), (71, 60, 2), (96, 94, 1), (96, 95, 2)]
        {
            assert_eq!(errors(&about_schema(&schema(version, compat))).len(), count, "{version}");
        }
        assert_eq!(errors(&about_schema(&SynapseSchema::default())).len(), 1);
    }

    #[test]
    fn the_role_may_read_every_table() {
        for table in TABLES {
            assert!(ROLE_SQL.contains(&format!("'{}'", table.name)), "{}", table.name);
        }
    }
}
