//! Before authentication, a request has a share of what is there for strangers, which is small, and
//! gives way when it is among the oldest of those who have most. Once it has come whole, and its
//! signature fits, it takes one of the places of those who are known. Probes do not come this way.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Version, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::{runtime::Handle, time};
use tokio_util::sync::CancellationToken;

use super::{
    Attempt, Cut, Full, Kept, Limited, Limiter, Place, Share,
    counts::{Counted, Full as Which},
    failures,
};
use crate::{context::Context, error::ApiError, server_name::ServerName, x_matrix};

/// How long until places are free again: an answer takes milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a place is not free after an answer that was not taken.
const NOT_TAKEN: Duration = Duration::from_secs(30);

/// From where a request comes. Travels with it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The address, or its network.
    pub(crate) address: IpAddr,
    pub(crate) connection: Arc<Share<IpAddr>>,
    /// Ends the request, and its answer.
    pub(crate) cut: Cut,
    /// `None` before there is a request.
    pub(crate) attempt: Option<Arc<Attempt>>,
}

/// A request of which it is not known who asks. Travels with it.
#[derive(Clone, Debug)]
pub(crate) struct Stranger {
    share: Arc<Share<IpAddr>>,
    gave_way: CancellationToken,
}

impl Stranger {
    /// So much more of its body has come.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), ApiError> {
        self.share.grow(bytes).map_err(|Full| ApiError::gave_way())
    }

    /// Ready when it has to give way.
    pub(crate) async fn gave_way(&self) {
        self.gave_way.cancelled().await;
    }
}

/// A request whose signature fits, for as long as it is answered.
#[derive(Debug)]
pub(crate) struct Admitted {
    _counted: Counted,
    connection: Option<Kept<IpAddr>>,
}

/// What an answer holds until its last byte has been taken. Travels with it.
#[derive(Clone, Debug)]
pub(crate) struct Holds(Arc<Mutex<Option<Held>>>);

/// The same, for one.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) origin: ServerName,
    place: Place,
    _connection: Option<Kept<IpAddr>>,
}

impl Held {
    /// The answer was not taken, so that it had to give way. Its server does not have the place back
    /// at once: else it could go on having answers made that it does not take.
    pub(crate) fn was_not_taken(self) {
        let place = self.place;
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move {
                time::sleep(NOT_TAKEN).await;
                drop(place);
            }));
        }
    }
}

impl Holds {
    /// What is held, the first time.
    pub(crate) fn take(&self) -> Option<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The middleware.
pub(crate) async fn admit(
    State(cx): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let response = match begin(&cx, &request) {
        Ok(stranger) => {
            let (version, caller) = (request.version(), request.extensions().get().cloned());
            request.extensions_mut().insert(stranger.clone());
            tokio::select! {
                biased;
                response = next.run(request) => response,
                () = stranger.gave_way() => give_way(version, caller.as_ref()),
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    // Who waits to hear that there is no place takes none.
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        cx.limits.refusals.turn().await;
    }
    response
}

fn begin(cx: &Context, request: &Request) -> Result<Stranger, ApiError> {
    let limits = &cx.limits;
    let address = request.extensions().get().map(|it: &Caller| it.address);
    if address.is_some_and(|address| !limits.failures.are_few(address)) {
        let (limiter, retry_after) = (Limiter::Failures, failures::RETRY_AFTER);
        return Err(Limited { limiter, retry_after }.into());
    }
    let gave_way = CancellationToken::new();
    let share = limits.strangers.add(address, 0, Cut::of(gave_way.clone()));
    let share = Arc::new(share.map_err(|Full| ApiError::gave_way())?);
    // Whoever it is in truth: it would be refused after its signature has been verified, which is
    // most of what a refusal costs. Only those who are known can take all places, and nobody can
    // fill a queue but the server whose queue it is.
    drop(count(cx, address)?);
    if let Some(origin) = x_matrix::claimed_origin(request.headers()) {
        limits.servers.has_room(&origin)?;
    }
    Ok(Stranger { share, gave_way })
}

/// Takes one of the places of those who are known.
fn count(cx: &Context, address: Option<IpAddr>) -> Result<Counted, Limited> {
    cx.limits.requests.count(address).map_err(|full| {
        let limiter = match full {
            Which::All => Limiter::Requests,
            Which::Address => Limiter::RequestsPerAddress,
        };
        Limited { limiter, retry_after: RETRY_AFTER }
    })
}

/// What had to give way hears 408, or has its stream reset.
fn give_way(version: Version, caller: Option<&Caller>) -> Response {
    if version == Version::HTTP_2
        && let Some(caller) = caller
    {
        caller.cut.cut();
    }
    let mut response = ApiError::gave_way().into_response();
    if version != Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The request has come whole and its signature fits: it is a stranger's no more.
pub(crate) fn authenticated(cx: &Context, request: &Parts) -> Result<Admitted, ApiError> {
    let caller: Option<&Caller> = request.extensions.get();
    if let Some(attempt) = caller.and_then(|it| it.attempt.as_ref()) {
        attempt.succeeded();
    }
    let counted = count(cx, caller.map(|it| it.address))?;
    let stranger: Option<&Stranger> = request.extensions.get();
    if stranger.is_some_and(|it| !it.share.end()) {
        return Err(ApiError::gave_way());
    }
    // A connection that has given way ends by itself.
    let connection = caller.and_then(|it| it.connection.keep());
    Ok(Admitted { _counted: counted, connection })
}

impl Admitted {
    /// The request is answered: what it holds goes with the answer, until that has been taken.
    pub(crate) fn answer(
        self,
        origin: ServerName,
        mut place: Place,
        answer: Result<Response, ApiError>,
    ) -> Response {
        place.answered();
        let held = Held { origin, place, _connection: self.connection };
        let mut response = answer.into_response();
        response.extensions_mut().insert(Holds(Arc::new(Mutex::new(Some(held)))));
        response
    }
}
