// Durable job systems on the same jobs; prints JSON.
//
// queue.mjs bullmq|graphile PORT submit CALLERS SECONDS
// queue.mjs bullmq|graphile PORT tasks COUNT SLOTS

import { Queue, Worker } from "bullmq";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { Redis } from "ioredis";
import pg from "pg";

const [system, port, what, first, second] = process.argv.slice(2);
const prompt = "Look at the last ten commits and say in one sentence what they change.";
const CALLERS = 64;

async function bullmq() {
  const options = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };
  const connection = new Redis(options);
  const name = `bench-${process.pid}`;
  const queue = new Queue(name, { connection });
  await queue.waitUntilReady();
  return {
    add: () => queue.add("task", { prompt }),
    async work(slots, ended) {
      const worker = new Worker(name, async () => "ok", { connection, concurrency: slots });
      worker.on("completed", ended);
      await worker.waitUntilReady();
    },
  };
}

async function graphile() {
  const connectionString = `postgres://postgres@127.0.0.1:${port}/postgres`;
  const pgPool = new pg.Pool({ connectionString, max: CALLERS });
  const utils = await makeWorkerUtils({ pgPool });
  await utils.migrate();
  return {
    add: () => utils.addJob("task", { prompt }),
    async work(slots, ended) {
      const taskList = { task: async () => void ended() };
      const noop = { error() {}, warn() {}, info() {}, debug() {} };
      const logger = new Logger(() => (level, message) => noop[level]?.(message));
      await run({ pgPool, taskList, concurrency: slots, pollInterval: 100, logger });
    },
  };
}

async function all(callers, call) {
  await Promise.all(Array.from({ length: callers }, (_, number) => call(number)));
}

const { add, work } = await (system === "bullmq" ? bullmq() : graphile());
let count = 0;
let begun = performance.now();
if (what === "submit") {
  const end = begun + Number(second) * 1e3;
  await all(Number(first), async () => {
    while (performance.now() < end) {
      await add();
      count += 1;
    }
  });
} else {
  const wanted = Number(first);
  let ended = 0;
  let finish;
  const finished = new Promise((resolve) => (finish = resolve));
  await work(Number(second), () => ++ended === wanted && finish());
  begun = performance.now();
  await all(CALLERS, async (number) => {
    for (let i = number; i < wanted; i += CALLERS) await add();
  });
  await finished;
  count = wanted;
}
console.log(JSON.stringify({ rate: (count / (performance.now() - begun)) * 1e3 }));
process.exit(0);
