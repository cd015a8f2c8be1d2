//! What the history service remembers of other servers' keys.

use std::time::Duration;

use axum::body::Bytes;
use tokio::time::Instant;
use tonic::Status;

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

impl RememberedKeys {
    /// A server's `/_matrix/key/v2/server` answer, as it was put.
    pub(crate) async fn get(&self, server_name: String) -> Result<Bytes, Status> {
        let question = Framed::new(&GetServerKeysRequest { server_name });
        let until = Instant::now() + TIMEOUT;
        let answer = self.0.ask::<GetServerKeysResponse>(GET, (until, question)).await?;
        Ok(answer.answer.clone())
    }

    /// Puts one.
    pub(crate) async fn put(&self, answer: Bytes) -> Result<(), Status> {
        let question = Framed::new(&PutServerKeysRequest { answer });
        let until = Instant::now() + TIMEOUT;
        self.0.ask::<PutServerKeysResponse>(PUT, (until, question)).await?;
        Ok(())
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
