// graphile-worker doing what `cargo xtask bench farm` does: no-op jobs in the same PostgreSQL.
// usage: node graphile.mjs ADDRESS JOBS    prints one JSON object a line: what, value
import { makeWorkerUtils, run } from "graphile-worker";

const [connectionString, count] = process.argv.slice(2);
const jobs = Number(count);
const CALLERS = 64, BATCH = 512, CONCURRENCY = 24, LATENCIES = 100;
const tell = (what, value) => console.log(JSON.stringify({ what, value }));
const now = () => performance.now();
const logger = undefined;

const utils = await makeWorkerUtils({ connectionString, maxPoolSize: 16 });
await utils.migrate();

let left = jobs, began = now();
await Promise.all(Array.from({ length: CALLERS }, async () => {
  while (left-- > 0) await utils.addJob("noop", {});
}));
tell("single", jobs / (now() - began) * 1e3);

began = now();
for (let at = 0; at < jobs; at += BATCH) {
  const some = Array.from({ length: Math.min(BATCH, jobs - at) }, () => ({ identifier: "noop", payload: {} }));
  if (utils.addJobs) await utils.addJobs(some);
  else await utils.withPgClient((client) => client.query(
    "select graphile_worker.add_job('noop', '{}'::json) from generate_series(1, $1)", [some.length]));
}
tell("batched", jobs / (now() - began) * 1e3);

let done = 0, finished, told;
const all = new Promise((resolve) => { finished = resolve; });
began = now();
const runner = await run({
  connectionString, concurrency: CONCURRENCY, maxPoolSize: 30, pollInterval: 2000, noHandleSignals: true,
  taskList: {
    noop: async () => { if (++done === 2 * jobs) finished(); },
    told: async () => { told(); },
  },
});
await all;
tell("work", 2 * jobs / (now() - began) * 1e3);

const took = [];
for (let n = 0; n < LATENCIES; n++) {
  const ran = new Promise((resolve) => { told = resolve; });
  const from = now();
  await utils.addJob("told", {});
  await ran;
  took.push(now() - from);
}
took.sort((a, b) => a - b);
tell("p50", took[LATENCIES >> 1]);
tell("p99", took[Math.floor(LATENCIES * 0.99)]);
await runner.stop();
await utils.release();
