//! The lease of a call: a feeder sends it with every call that writes, so that a feeder that has been
//! replaced changes nothing more.

use std::{ops::ControlFlow, sync::Arc};

use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap};

use super::status;
use crate::context::feeder::{Feeder, WriteGuard};

/// The metadata that has the lease id.
const METADATA: &str = "backscroll-lease";

/// The lease that a call was made with.
#[derive(Clone, Debug)]
pub(super) struct CallLease {
    /// `None` if the call was made without a lease, and may write. Empty, which is the lease of
    /// no feeder, if the metadata is malformed.
    lease_id: Option<String>,
}

impl CallLease {
    /// The lease in the metadata of a call.
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        let mut values = metadata.get_all(METADATA).iter();
        let lease_id = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => Some(value.to_str().unwrap_or_default().to_owned()),
            (Some(_), Some(_)) => Some(String::new()),
        };
        Self { lease_id }
    }

    /// Lets the call write until the guard is dropped. A long call takes a new guard for each of its
    /// steps: a new feeder waits until there is none. `None` if the call was made without a lease.
    ///
    /// # Errors
    /// `LEASE_LOST` if the lease is not that of the feeder. Nothing may be written then.
    pub(super) fn begin_write(&self, feeder: &Arc<Feeder>) -> Result<Option<WriteGuard>, Status> {
        let Some(lease_id) = &self.lease_id else { return Ok(None) };
        let guard = feeder.begin_write(lease_id, Instant::now().into_std());
        guard.map(Some).map_err(|_| status::lease_lost())
    }
}

/// A long call that writes in steps. Between two of them a new feeder may get its lease.
pub(super) struct WriteSteps<'c> {
    lease: &'c CallLease,
    feeder: &'c Arc<Feeder>,
    writing: Option<WriteGuard>,
    lost: Option<Status>,
}

impl<'c> WriteSteps<'c> {
    /// Begins the first step.
    ///
    /// # Errors
    /// `LEASE_LOST` if the lease is not that of the feeder. Nothing may be written then.
    pub(super) fn begin(lease: &'c CallLease, feeder: &'c Arc<Feeder>) -> Result<Self, Status> {
        let writing = lease.begin_write(feeder)?;
        Ok(Self { lease, feeder, writing, lost: None })
    }

    /// Ends a step: a call that waits for its caller must not keep a new feeder waiting.
    pub(super) fn pause(&mut self) {
        self.writing = None;
    }

    /// Begins the next step. Breaks if the lease has been lost: then nothing more may be written.
    pub(super) fn next(&mut self) -> ControlFlow<()> {
        self.pause();
        match self.lease.begin_write(self.feeder) {
            Ok(writing) => {
                self.writing = writing;
                ControlFlow::Continue(())
            }
            Err(status) => {
                self.lost = Some(status);
                ControlFlow::Break(())
            }
        }
    }

    /// Ends the last step. The error of the call if it ended because its lease was lost.
    pub(super) fn end(self) -> Result<(), Status> {
        self.lost.map_or(Ok(()), Err)
    }
}
