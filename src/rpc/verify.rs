//! Looking through the whole store while it serves.

use std::{
    mem,
    ops::ControlFlow,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    news::{News, run},
    status, wire,
};
use crate::{
    context::Context,
    proto::v1 as pb,
    verify::{self, Fault, Watch},
};

/// How much of the time it may work when the request does not say, in percent.
const BUSY_PERCENT: u32 = 25;
/// The longest rest: callers that leave and the end of the service are noticed after it.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// So many bytes of faults are told at once: an answer stays far below what clients take.
const MAX_FAULT_BYTES: usize = 1 << 20;
/// How often a caller hears of progress, at most.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Verifies, one caller at a time: `place` is held until it has ended.
pub(super) fn verify(
    cx: Arc<Context>,
    request: pb::VerifyRequest,
    (stopping, place): (CancellationToken, OwnedSemaphorePermit),
) -> News<pb::VerifyResponse> {
    let pb::VerifyRequest { busy_percent } = request;
    let busy_percent = if busy_percent == 0 { BUSY_PERCENT } else { busy_percent.min(100) };
    let metrics = cx.metrics.clone();
    run(&metrics, move |news| {
        let _place = place;
        let failed = |failure| status::of_store(&failure);
        let extent = verify::extent(&cx.store).map_err(failed)?;
        let answer = pb::VerifyResponse { to_look_at_count: extent, ..Default::default() };
        let now = Instant::now();
        let (fault_bytes, begun, told) = (0, now, now);
        let mut watch = Telling { news, stopping, busy_percent, answer, fault_bytes, begun, told };
        match verify::verify(&cx.store, &mut watch).map_err(failed)? {
            ControlFlow::Continue(()) => {
                watch.answer.done = true;
                Ok(Some(watch.answer))
            }
            ControlFlow::Break(()) if watch.stopping.is_cancelled() => Err(status::stopping()),
            ControlFlow::Break(()) => Ok(None),
        }
    })
}

/// Tells a caller what is found, and rests in between.
struct Telling<'a> {
    news: &'a mpsc::Sender<Result<pb::VerifyResponse, Status>>,
    stopping: CancellationToken,
    busy_percent: u32,
    /// The next answer.
    answer: pb::VerifyResponse,
    /// What the faults in it take.
    fault_bytes: usize,
    /// When the piece of work under way began.
    begun: Instant,
    told: Instant,
}

impl Telling<'_> {
    /// Tells the caller what was found since it last heard of us.
    fn tell(&mut self) {
        let next = pb::VerifyResponse {
            event_count: self.answer.event_count,
            to_look_at_count: self.answer.to_look_at_count,
            ..pb::VerifyResponse::default()
        };
        let answer = mem::replace(&mut self.answer, next);
        self.fault_bytes = 0;
        self.told = Instant::now();
        // A caller that has gone is noticed at the next pause.
        drop(self.news.blocking_send(Ok(answer)));
    }
}

impl Watch for Telling<'_> {
    fn events(&mut self, count: u32) {
        self.answer.event_count += u64::from(count);
    }

    fn fault(&mut self, fault: Fault) {
        let fault = wire::fault(fault);
        self.fault_bytes += fault.encoded_len();
        self.answer.faults.push(fault);
        // A whole room is looked at without a pause: it may have faults for many answers.
        if self.fault_bytes >= MAX_FAULT_BYTES {
            self.tell();
        }
    }

    fn pause(&mut self) -> ControlFlow<()> {
        if !self.answer.faults.is_empty() || self.told.elapsed() >= TELL_EVERY {
            self.tell();
        }
        let rest = self.begun.elapsed() * (100 - self.busy_percent) / self.busy_percent;
        thread::sleep(rest.min(LONGEST_REST));
        self.begun = Instant::now();
        if self.stopping.is_cancelled() || self.news.is_closed() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::FaultKind;

    /// More than a client takes in one message, without a pause in between.
    #[test]
    fn what_is_found_in_one_piece_of_work_is_told_in_several_answers() {
        const FAULTS: usize = 20_000;
        let (news, mut heard) = mpsc::channel::<Result<pb::VerifyResponse, Status>>(1);
        let hearing = thread::spawn(move || {
            let (mut largest, mut faults) = (0, 0);
            while let Some(answer) = heard.blocking_recv() {
                let answer = answer.unwrap();
                largest = largest.max(answer.encoded_len());
                faults += answer.faults.len();
            }
            (largest, faults)
        });
        let now = Instant::now();
        let mut telling = Telling {
            news: &news,
            stopping: CancellationToken::new(),
            busy_percent: 100,
            answer: pb::VerifyResponse::default(),
            fault_bytes: 0,
            begun: now,
            told: now,
        };
        for _ in 0..FAULTS {
            let (room_id, event_id) = ("!".repeat(255), "$".repeat(1_020));
            telling.fault(Fault { room_id, event_id, kind: FaultKind::ExtremitiesWrong });
        }
        telling.tell();
        drop(news);
        let (largest, faults) = hearing.join().unwrap();
        assert_eq!(faults, FAULTS);
        assert!(largest < 2 << 20, "{largest} bytes");
    }
}
