//! What is compared takes turns: the rows of the table, and the rooms.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll::context::Context;
use serde_json::Value;

use crate::{
    Flags,
    children::{Process, Server},
    cpu,
    drive::{self, Asked, Asking, Door},
    federation::{self, Federation},
    questions::{self, Endpoint, Question},
    report::{RoomRow, Row},
    rooms::{ASKING, Made, OURS, Plan},
};

/// Questions whose allocations are counted.
const COUNTED: usize = 50;
/// Questions to a room in one turn.
const TURN_OF_A_ROOM: Duration = Duration::from_millis(150);

/// Everything that is running.
pub(crate) struct Bench<'a> {
    pub(crate) flags: &'a Flags,
    pub(crate) folder: &'a Path,
    pub(crate) history: &'a Server,
    pub(crate) gateway: &'a Server,
    pub(crate) federation: &'a Federation,
    pub(crate) cx: &'a Arc<Context>,
}

/// One row while it is measured: a figure of each round.
struct Turns {
    name: &'static str,
    /// Nothing for the row without a socket.
    asking: Option<Asking>,
    processes: Vec<Process>,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    median: Vec<f64>,
    ninety_ninth: Vec<f64>,
}

impl Bench<'_> {
    /// Asks one endpoint about one room at every depth of the house, in turns.
    pub(crate) async fn compare(
        &self,
        room: &Made,
        endpoint: Endpoint,
    ) -> anyhow::Result<Vec<Row>> {
        eprintln!("asking {}", endpoint.name());
        let questions =
            Arc::new(questions::ask_of(room, endpoint, (self.flags.seed, self.federation)));
        let answers = self.folder.join("answers.json");
        let bytes = self.record(&questions, &answers).await?;
        let limit = Server::limit(self.folder, &answers)?;
        let (history, gateway) = (self.history.process(), self.gateway.process());
        let mut rows = [
            self.row("limit", Some(Door::Http(limit.address)), vec![limit.process()], &questions),
            self.row(
                "gateway + history",
                Some(Door::Http(self.gateway.address)),
                vec![history.clone(), gateway],
                &questions,
            ),
            self.row("history", Some(Door::Grpc(self.history.url())), vec![history], &questions),
            self.row("use case", None, vec![Process::this()], &questions),
        ];
        for _ in 0..self.flags.rounds {
            for row in &mut rows {
                self.turn(row, &questions).await?;
            }
        }
        let (allocations, peak) = self.allocations(&questions)?;
        let limit = rows.first().map(|it| it.per_second.clone()).unwrap_or_default();
        let row = |it: Turns| Row {
            endpoint: endpoint.name(),
            name: it.name,
            of_the_limit: median(
                it.per_second.iter().zip(&limit).map(|(it, limit)| it / limit).collect(),
            ),
            allocations: it.asking.is_none().then_some(allocations),
            peak_kib: it.asking.is_none().then_some(peak),
            answer_kib: bytes / 1024.0,
            per_second: median(it.per_second),
            median_us: median(it.median),
            ninety_ninth_us: median(it.ninety_ninth),
            cpu_us: median(it.cpu_us),
        };
        Ok(rows.into_iter().map(row).collect())
    }

    fn row(
        &self,
        name: &'static str,
        door: Option<Door>,
        processes: Vec<Process>,
        questions: &Arc<Vec<Question>>,
    ) -> Turns {
        let (questions, connections) = (Arc::clone(questions), self.flags.connections);
        let asking = door.map(|door| Asking { door, questions, connections });
        let (per_second, cpu_us, median, ninety_ninth) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Turns { name, asking, processes, per_second, cpu_us, median, ninety_ninth }
    }

    /// Half of a turn as fast as answers come, the other half at half that speed.
    async fn turn(&self, row: &mut Turns, questions: &[Question]) -> anyhow::Result<()> {
        let half = self.flags.turn() / 2;
        let before = cpu(&row.processes)?;
        let asked = match &row.asking {
            Some(asking) => asking.closed(half).await?,
            None => self.on_threads(questions, (2, half))?,
        };
        let took = cpu(&row.processes)? - before;
        let count = f64::from(u32::try_from(asked.times.len())?.max(1));
        let per_second = count / asked.elapsed.as_secs_f64();
        row.per_second.push(per_second);
        row.cpu_us.push(took.as_secs_f64() * 1e6 / count);
        let mut calm = match &row.asking {
            Some(asking) => asking.open(half, whole(per_second / 2.0)).await?,
            None => self.on_threads(questions, (1, half))?,
        };
        row.median.push(calm.percentile(50));
        row.ninety_ninth.push(calm.percentile(99));
        Ok(())
    }

    fn on_threads(&self, questions: &[Question], how: (usize, Duration)) -> anyhow::Result<Asked> {
        tokio::task::block_in_place(|| drive::in_process(self.cx, questions, how))
    }

    /// Asks everything once, and keeps the answers for the limit. Their bytes, on average.
    async fn record(&self, questions: &[Question], to: &Path) -> anyhow::Result<f64> {
        let (mut answers, mut bytes) = (BTreeMap::new(), 0);
        for question in questions {
            let content: Option<Value> = serde_json::from_str(&question.content).ok();
            let asked = federation::Question {
                origin: ASKING,
                destination: OURS,
                method: question.method,
                uri: &question.uri,
                content: content.as_ref(),
            };
            let answer = self.federation.ask(self.gateway.address, asked).await;
            ensure!(answer.status.is_success(), "{}: {}", question.uri, answer.status);
            bytes += answer.body.len();
            let key = format!("{}{}", question.uri, question.content);
            answers.insert(key, String::from_utf8(answer.body.to_vec())?);
        }
        fs::write(to, serde_json::to_string(&answers)?)?;
        let (bytes, count) = (u32::try_from(bytes)?, u32::try_from(questions.len())?);
        Ok(f64::from(bytes) / f64::from(count.max(1)))
    }

    /// How often an answer allocates, and the most it holds at once, in KiB.
    fn allocations(&self, questions: &[Question]) -> anyhow::Result<(u64, u64)> {
        let (mut counts, mut peak) = (Vec::new(), 0);
        for question in questions.iter().take(COUNTED) {
            let decoded = question.plain.decoded();
            let mut outcome = None;
            let info = allocation_counter::measure(|| {
                outcome = Some(drive::answer(self.cx, &decoded).map(drop));
            });
            outcome.context("it ran")??;
            counts.push(info.count_total);
            peak = peak.max(info.bytes_max / 1024);
        }
        counts.sort_unstable();
        Ok((counts.get(counts.len() / 2).copied().unwrap_or(0), peak))
    }

    /// Asks every room for history through both services, one question at a time, in turns.
    pub(crate) async fn rooms(&self, rooms: &[(Plan, Made)]) -> anyhow::Result<Vec<RoomRow>> {
        eprintln!("asking every room");
        let mut measured = Vec::new();
        for (plan, room) in rooms {
            let how = (self.flags.seed, self.federation);
            let questions = questions::ask_of(room, Endpoint::Backfill, how);
            let (mut visited, mut served) = (0u32, 0usize);
            for question in questions.iter().take(COUNTED) {
                let page = drive::answer(self.cx, &question.plain.decoded())?;
                visited += page.visited;
                served += page.events.len();
            }
            let visited = f64::from(visited) / f64::from(u32::try_from(served)?.max(1));
            let door = Door::Http(self.gateway.address);
            let asking = Asking { door, questions: Arc::new(questions), connections: 1 };
            measured.push((plan, room, asking, visited, Asked::default(), Vec::new()));
        }
        for _ in 0..self.flags.rounds * 2 {
            for (_, _, asking, _, all, medians) in &mut measured {
                let mut asked = asking.closed(TURN_OF_A_ROOM).await?;
                medians.push(asked.percentile(50));
                all.times.append(&mut asked.times);
            }
        }
        let row =
            |(plan, room, _, visited, mut all, medians): (&Plan, &Made, _, _, Asked, _)| RoomRow {
                name: plan.name.clone(),
                shape: plan.shape,
                size: plan.size,
                events: room.events,
                visited_per_event: visited,
                median_us: median(medians),
                ninety_ninth_us: all.percentile(99),
            };
        Ok(measured.into_iter().map(row).collect())
    }
}

impl Asked {
    /// In microseconds.
    fn percentile(&mut self, percent: usize) -> f64 {
        self.times.sort_unstable();
        let at = self.times.len() * percent / 100;
        self.times.get(at).map_or(f64::NAN, |it| it.as_secs_f64() * 1e6)
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The whole part of a rate.
fn whole(rate: f64) -> u32 {
    let per_minute = Duration::try_from_secs_f64(rate).unwrap_or_default();
    u32::try_from(per_minute.as_secs()).unwrap_or(u32::MAX)
}
