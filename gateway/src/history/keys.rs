//! What the history service remembers of other servers' keys.

use std::time::Duration;

use axum::body::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Framed, Method, Services};
use crate::proto::v1::{
    GetServerKeysRequest, GetServerKeysResponse, PutServerKeysRequest, PutServerKeysResponse,
};

const GET: Method =
    Method { name: "GetServerKeys", path: "/backscroll.history.v1.KeyService/GetServerKeys" };
const PUT: Method =
    Method { name: "PutServerKeys", path: "/backscroll.history.v1.KeyService/PutServerKeys" };

/// The service is near, and without it the server can be asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct RememberedKeys(pub(super) Services);

/// Why there are none.
#[derive(Debug)]
pub(crate) enum KeysNotGiven {
    /// There never were any.
    Unknown,
    /// There were some, and they are not to be used any more.
    Ended,
    /// The service failed.
    Failed(Status),
}

impl RememberedKeys {
    /// A server's `/_matrix/key/v2/server` answer, as it was put, and when it was fetched, in
    /// milliseconds since 1970.
    pub(crate) async fn get(&self, server_name: String) -> Result<(Bytes, u64), KeysNotGiven> {
        let question = Framed::new(&GetServerKeysRequest { server_name });
        let until = Instant::now() + TIMEOUT;
        let answer = self.0.ask::<GetServerKeysResponse>(GET, (until, question)).await;
        let answer = answer.map_err(KeysNotGiven::from)?;
        Ok((answer.answer.clone(), answer.fetched_ts))
    }

    /// Puts one that was fetched at this time, in milliseconds since 1970.
    pub(crate) async fn put(&self, answer: Bytes, fetched_ts: u64) -> Result<(), Status> {
        let question = Framed::new(&PutServerKeysRequest { answer, fetched_ts });
        let until = Instant::now() + TIMEOUT;
        self.0.ask::<PutServerKeysResponse>(PUT, (until, question)).await?;
        Ok(())
    }
}

impl From<Status> for KeysNotGiven {
    fn from(status: Status) -> Self {
        if status.code() != Code::NotFound {
            return Self::Failed(status);
        }
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        if reason == "KEYS_EXPIRED" { Self::Ended } else { Self::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::key_service_server::SERVICE_NAME;

    #[test]
    fn methods_are_those_of_the_service() {
        for Method { name, path } in [GET, PUT] {
            assert_eq!(path, format!("/{SERVICE_NAME}/{name}"));
        }
    }
}
