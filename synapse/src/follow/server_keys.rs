//! Passes the keys of other servers on, so that gateways rarely have to fetch them.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;

use super::Context;
use crate::{database::server_keys, history::message, proto::v1::PutServerKeysRequest};

/// How often new keys are read.
const INTERVAL: Duration = Duration::from_secs(60);
/// Number of answers that are read at a time.
const LIMIT: i64 = 500;

/// Passes keys on for as long as the follower follows.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn run(context: &Context) -> anyhow::Result<()> {
    let mut after_ms = 0;
    loop {
        // Opened anew each time, because it is rarely used.
        let mut session = context.databases.main.connect().await?;
        let transaction = session.begin().await?;
        let answers = if server_keys::is_readable(&transaction).await? {
            server_keys::fetched_after(&transaction, after_ms, LIMIT).await?
        } else {
            Vec::new()
        };
        transaction.commit().await?;
        drop(session);
        let is_last = answers.is_empty();
        for answer in answers {
            after_ms = answer.fetched_ms;
            let fetched_ts = answer.fetched_ms.unsigned_abs();
            let request = PutServerKeysRequest { answer: answer.answer.into(), fetched_ts };
            match message(context.history.keys.clone().put_server_keys(request).await) {
                // Not signed by its own keys, for example: the gateway fetches it if it is needed.
                Err(error) if error.code == Code::InvalidArgument => {
                    tracing::debug!("keys were left out: {error}");
                }
                stored => drop(stored?),
            }
        }
        if is_last {
            sleep(INTERVAL).await;
        }
    }
}
