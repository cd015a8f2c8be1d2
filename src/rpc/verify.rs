//! Verifying the whole store while it serves.

use std::{
    mem,
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{now_ms, progress::Progress, status, wire};
use crate::{
    context::Context,
    proto::v1 as pb,
    verify::{self, Fault, Watch},
};

/// The part of the time that it may work when the request does not say, in percent.
const MAX_CPU_PERCENT: u32 = 25;
/// The longest rest. A caller that leaves, and the end of the service, are noticed after a rest.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// The most bytes of faults in one message, far below what clients accept.
const MAX_FAULT_BYTES: usize = 1 << 20;
/// The least time between two messages that report progress only.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Verifies the store. Ends early if the caller leaves.
pub(super) fn verify(
    cx: &Context,
    request: pb::VerifyRequest,
    progress: &Progress<pb::VerifyResponse>,
    stopping: CancellationToken,
) -> Result<Option<pb::VerifyResponse>, Status> {
    let pb::VerifyRequest { max_cpu_percent } = request;
    let max_cpu_percent =
        if max_cpu_percent == 0 { MAX_CPU_PERCENT } else { max_cpu_percent.min(100) };
    let failed = |failure| status::of_store(&failure);
    let total_event_count = verify::extent(&cx.store).map_err(failed)?;
    let now = Instant::now();
    let mut reporter = Reporter {
        progress,
        stopping,
        max_cpu_percent,
        now_ms: now_ms(),
        next: pb::VerifyResponse { total_event_count, ..Default::default() },
        fault_bytes: 0,
        work_began: now,
        reported: now,
    };
    match verify::verify(&cx.store, &mut reporter).map_err(failed)? {
        ControlFlow::Continue(()) => {
            reporter.next.done = true;
            Ok(Some(reporter.next))
        }
        ControlFlow::Break(()) if reporter.stopping.is_cancelled() => Err(status::stopping()),
        ControlFlow::Break(()) => Ok(None),
    }
}

/// Reports to the caller what was found, and rests between pieces of work.
struct Reporter<'a> {
    progress: &'a Progress<pb::VerifyResponse>,
    stopping: CancellationToken,
    max_cpu_percent: u32,
    /// The wall clock when the verification began, in milliseconds since 1970.
    now_ms: u64,
    /// The next message to send.
    next: pb::VerifyResponse,
    /// The bytes that the faults in the next message take.
    fault_bytes: usize,
    /// When the current piece of work began.
    work_began: Instant,
    /// When the last message was sent.
    reported: Instant,
}

impl Reporter<'_> {
    /// Sends what was found since the last message.
    fn report(&mut self) {
        let next = pb::VerifyResponse {
            verified_event_count: self.next.verified_event_count,
            total_event_count: self.next.total_event_count,
            ..pb::VerifyResponse::default()
        };
        let message = mem::replace(&mut self.next, next);
        self.fault_bytes = 0;
        self.reported = Instant::now();
        // A caller that has left is noticed at the next pause.
        let _sent = self.progress.send(message);
    }
}

impl Watch for Reporter<'_> {
    fn events(&mut self, count: u32) {
        self.next.verified_event_count += u64::from(count);
    }

    fn fault(&mut self, fault: Fault) {
        let fault = wire::fault(fault);
        self.fault_bytes += fault.encoded_len();
        self.next.faults.push(fault);
        // A whole room is looked at without a pause: its faults may fill many messages.
        if self.fault_bytes >= MAX_FAULT_BYTES {
            self.report();
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    #[expect(clippy::disallowed_methods, reason = "verification limits its own share of a core")]
    fn pause(&mut self) -> ControlFlow<()> {
        if !self.next.faults.is_empty() || self.reported.elapsed() >= REPORT_EVERY {
            self.report();
        }
        let rest = self.work_began.elapsed() * (100 - self.max_cpu_percent) / self.max_cpu_percent;
        thread::sleep(rest.min(LONGEST_REST));
        self.work_began = Instant::now();
        if self.stopping.is_cancelled() || self.progress.is_closed() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::verify::FaultKind;

    /// More than a client accepts in one message, without a pause in between.
    #[test]
    fn faults_that_are_found_without_a_pause_are_sent_in_several_messages() {
        const FAULTS: usize = 20_000;
        let (sender, mut messages) = mpsc::channel::<Result<pb::VerifyResponse, Status>>(1);
        let receiving = thread::spawn(move || {
            let mut largest = 0;
            let mut faults = 0;
            while let Some(message) = messages.blocking_recv() {
                let message = message.unwrap();
                largest = largest.max(message.encoded_len());
                faults += message.faults.len();
            }
            (largest, faults)
        });
        let now = Instant::now();
        let progress = Progress::new(sender);
        let mut reporter = Reporter {
            progress: &progress,
            stopping: CancellationToken::new(),
            max_cpu_percent: 100,
            now_ms: 0,
            next: pb::VerifyResponse::default(),
            fault_bytes: 0,
            work_began: now,
            reported: now,
        };
        for _ in 0..FAULTS {
            let room_id = "!".repeat(255);
            let event_id = "$".repeat(1_020);
            reporter.fault(Fault { room_id, event_id, kind: FaultKind::ExtremitiesWrong });
        }
        reporter.report();
        drop(progress);
        let (largest, faults) = receiving.join().unwrap();
        assert_eq!(faults, FAULTS);
        assert!(largest < 2 << 20, "{largest} bytes");
    }
}
