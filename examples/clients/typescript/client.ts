// Appends the events of a room file, and prints the last of them.
//
// Usage: client.js ADDRESS ROOM.ndjson

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO = join(__dirname, "../../../proto");
const SERVICES = ["history", "ingest"].map((it) => `backscroll/history/v1/${it}_service.proto`);
const DEADLINE_MS = 30_000;

interface Page {
  event_ids: string[];
  pdus: Buffer;
  end_reason: string;
}

interface AppendEventsResponse {
  event_id: string;
  refusal?: { reason: string; message: string };
}

// Enum values are strings, and 64-bit numbers too, because they do not fit a number.
const options = { includeDirs: [PROTO], keepCase: true, enums: String, longs: String, arrays: true };
const root = grpc.loadPackageDefinition(loadSync(SERVICES, options)) as any;
const { HistoryService, IngestService } = root.backscroll.history.v1;

const deadline = () => ({ deadline: Date.now() + DEADLINE_MS });

/** Appends events on one stream. Returns the id of the last one that was stored. */
function append(ingest: any, requests: object[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let last = "";
    const stream = ingest.AppendEvents(deadline());
    stream.on("data", (response: AppendEventsResponse) => {
      // Each response is sent when its event is on disk.
      if (response.refusal) {
        console.log("refused:", response.event_id, response.refusal.reason);
      } else {
        last = response.event_id;
      }
    });
    stream.on("error", reject);
    stream.on("end", () => resolve(last));
    for (const request of requests) stream.write(request);
    stream.end();
  });
}

function verdict(event: { rejected?: boolean; soft_failed?: boolean }): string {
  if (event.rejected) return "VERDICT_REJECTED";
  return event.soft_failed ? "VERDICT_SOFT_FAILED" : "VERDICT_ACCEPTED";
}

async function main(address: string, path: string): Promise<void> {
  const [header, ...lines] = readFileSync(path, "utf8").trim().split("\n").map((it) => JSON.parse(it));
  const { room_id, room_version } = header.room;
  const requests = lines.map((event) => {
    const { event_id, outlier, state_after } = event;
    const pdu = Buffer.from(JSON.stringify(event.pdu));
    return { room_id, room_version, event_id, pdu, outlier, state_after, verdict: verdict(event) };
  });
  // The default limit of 4 MiB for a response is enough.
  const history = new HistoryService(address, grpc.credentials.createInsecure());
  const ingest = new IngestService(address, grpc.credentials.createInsecure());
  const last = await append(ingest, requests);
  // Without a requester, this is a request of an internal caller: no event is hidden.
  const backfill = promisify(history.Backfill.bind(history)) as (...of: object[]) => Promise<Page>;
  const page = await backfill({ room_id, event_ids: [last], limit: 5 }, deadline());
  JSON.parse(page.pdus.toString()).forEach((pdu: { type: string; sender: string }, index: number) =>
    console.log(page.event_ids[index], pdu.type, pdu.sender),
  );
  console.log("ended because of", page.end_reason);
}

main(process.argv[2], process.argv[3]).then(() => process.exit(0));
