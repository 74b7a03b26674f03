/** Does the steps of clients/conformance and prints what it sees; judges nothing. */
import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Health, HealthCheckResponse_ServingStatus } from "./gen/health_pb.js";
import { ClaudepoolError, Client, connect, interceptors, type TaskStream } from "../src/node.js";
import {
  type ChainProgress,
  ChainStatus,
  ChainStepSchema,
  type Event,
  EventSchema,
  FailureReason,
  type TaskResult,
  TaskState,
} from "../src/v1.js";

interface Step {
  name: string;
  op: string;
  address: string;
  direct: string;
  prompt: string;
  service: string;
  token?: string;
  ca_file?: string;
  task_id: string;
  after_sequence: number;
  budget_microdollars: number;
  timeout_ms: number;
  prompts: string[];
  workflow: string;
  arguments: Record<string, string>;
  steps: { name: string; prompt: string }[];
  key: string;
  value: string;
}

const wait = { seconds: 60n, nanos: 0 };
const [file = "", kind] = process.argv.slice(2).sort((a, b) => Number(a === "--web") - Number(b === "--web"));
const open = (step: Step, address: string) =>
  kind === "--web"
    ? new Client(createGrpcWebTransport({ baseUrl: address, interceptors: interceptors(step.token) }))
    : connect(address, { token: step.token, tls: step.ca_file ? { ca: readFileSync(step.ca_file) } : undefined });

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

const dense = (events: Event[]) => events.length > 0 && events.every((e, i) => e.sequence === BigInt(i + 1));
const failure = (result?: TaskResult) => (result?.failure ? FailureReason[result.failure.reason] : "");
const prompt = (value: string) => ({ input: { case: "prompt" as const, value } });

/** The step's task with a tag of its own, to count by. */
const tagged = (step: Step) => ({ ...prompt(step.prompt), tags: [randomUUID()] });

/** How many tasks there are with its tag. */
async function tasks(pool: Client, { tags }: { tags: string[] }): Promise<number> {
  return (await pool.pool.listTasks({ filter: { anyTags: tags } })).tasks.length;
}

function state(events: Event[]): string {
  const end = events.at(-1)?.kind;
  return end?.case === "finished" ? (TaskState[end.value.state] ?? "") : "";
}

function text(events: Event[]): string[] {
  return events.flatMap(({ kind }) => (kind.case === "textDelta" ? [kind.value.text] : []));
}

function digest(events: Event[]): string {
  const hash = createHash("sha256");
  for (const event of events) hash.update(toBinary(EventSchema, event));
  return hash.digest("hex");
}

const code = (error: ClaudepoolError) => (Code[error.code] ?? "").replace(/(?<!^)([A-Z])/g, "_$1").toUpperCase();

async function refusal(answer: Promise<unknown>): Promise<ClaudepoolError> {
  try {
    await answer;
  } catch (error) {
    return ClaudepoolError.from(error);
  }
  throw new Error("it was not refused");
}

const chainSteps = (step: Step) =>
  step.steps.map(({ name, prompt }) => create(ChainStepSchema, { name, action: { case: "prompt", value: prompt } }));

const ops: Record<string, (pool: Client, step: Step) => Promise<object>> = {
  async health(pool, step) {
    const answer = await createClient(Health, pool.transport).check({ service: step.service });
    return { status: HealthCheckResponse_ServingStatus[answer.status] };
  },
  async run(pool, step) {
    const result = await pool.run(step.prompt);
    return { success: result.success, output: result.output, failure: failure(result) };
  },
  async run_stream(pool, step) {
    const task = tagged(step);
    const stream: TaskStream = pool.runStream(task);
    const events = await collect(stream);
    const said = text(events);
    return {
      text: said.join(""),
      deltas: said.length,
      dense: dense(events),
      task_id: stream.taskId !== "",
      state: state(events),
      tasks: await tasks(pool, task),
    };
  },
  async submit_once(pool, step) {
    const task = tagged(step);
    await pool.submit(task);
    return { tasks: await tasks(pool, task) };
  },
  async submit_watch(pool, step) {
    const events = await collect(pool.watch(await pool.submit(step.prompt)));
    return { dense: dense(events), state: state(events) };
  },
  async late_attach(pool, step) {
    const taskId = await pool.submit(step.prompt);
    await pool.pool.getResult({ taskId, wait });
    const events = await collect(pool.watch(taskId));
    const rest = await collect(pool.watch(taskId, BigInt(step.after_sequence)));
    const tail = digest(rest) === digest(events.slice(step.after_sequence));
    return { dense: dense(events), rest_is_tail: rest.length > 0 && tail };
  },
  async cancel(pool, step) {
    const taskId = await pool.submit(step.prompt);
    const target = { case: "taskId" as const, value: taskId };
    const events: Event[] = [];
    for await (const event of pool.watch(taskId)) {
      if (event.kind.case === "textDelta") await pool.pool.cancel({ target });
      events.push(event);
    }
    await pool.pool.cancel({ target });
    return { state: state(events), repeat: true };
  },
  async fan_out(pool, step) {
    const outputs: string[] = [];
    const failures: string[] = [];
    for await (const { item } of pool.pool.fanOut({ tasks: step.prompts.map(prompt) })) {
      if (item.case !== "finished") continue;
      const { index, result } = item.value;
      outputs[index] = result?.success ? result.output : "";
      failures[index] = failure(result) ?? "";
    }
    return { outputs, failures };
  },
  async chain(pool, step) {
    const { taskId } = await pool.pool.submitChain({ steps: chainSteps(step) });
    const seen: ChainProgress[] = [];
    for await (const { item } of pool.pool.watchChain({ taskId })) {
      if (item.case === "progress") seen.push(item.value);
    }
    const last = seen.at(-1);
    const answer = await pool.pool.getResult({ taskId });
    return {
      status: ChainStatus[last?.status ?? 0],
      outputs: answer.result?.chain?.steps.map((s) => s.output),
      rising: seen.every((p, i) => i === 0 || p.sequence > (seen[i - 1]?.sequence ?? 0n)),
      completed: last?.completedSteps.map((s) => s.name),
    };
  },
  async workflow(pool, step) {
    const names = Object.keys(step.arguments);
    await pool.catalog.putWorkflow({
      workflow: {
        name: step.workflow,
        description: "Greets.",
        arguments: names.map((name) => ({ name, required: true })),
        steps: chainSteps(step),
      },
    });
    const { taskId } = await pool.pool.submitWorkflow({ name: step.workflow, arguments: step.arguments });
    return { final_output: (await pool.pool.getResult({ taskId, wait })).result?.chain?.finalOutput };
  },
  async context(pool, { key, value, prompt }) {
    await pool.context.setContext({ key, value });
    const { entries } = await pool.context.listContext({});
    const { output } = await pool.run(prompt);
    await pool.context.deleteContext({ key });
    const error = await refusal(pool.context.getContext({ key }));
    const listed = entries.some((entry) => entry.key === key && entry.value === value);
    return { listed, seen: output.includes(value), code: code(error), reason: error.reason };
  },
  async refused(pool, step) {
    const settings = { budgetMicrodollars: BigInt(step.budget_microdollars) };
    const error = await refusal(pool.submit({ ...prompt(step.prompt), settings }));
    return { code: code(error), reason: error.reason, fields: Object.keys(error.violations) };
  },
  async paused(pool, step) {
    await pool.operator.pause({});
    const error = await refusal(pool.submit(step.prompt));
    await pool.operator.resume({});
    return { code: code(error), reason: error.reason, retry_after_ms: error.retryAfterMs };
  },
  async deadline(pool, step) {
    return { code: code(await refusal(pool.run(step.prompt, { timeoutMs: step.timeout_ms }))) };
  },
  async same_bytes(pool, step) {
    const direct = open(step, step.direct);
    const taskId = await direct.submit(step.prompt);
    const disturbed = await collect(pool.watch(taskId));
    const undisturbed = await collect(direct.watch(taskId));
    const shared = await collect(direct.watch(step.task_id));
    direct.close();
    return {
      disturbed: digest(disturbed),
      undisturbed: digest(undisturbed),
      events: disturbed.length,
      shared: digest(shared),
    };
  },
};

const { steps } = JSON.parse(readFileSync(file, "utf8")) as { steps: Step[] };
for (const step of steps) {
  let told: object;
  const pool = open(step, step.address);
  try {
    told = { saw: await ops[step.op]?.(pool, step) };
  } catch (error) {
    told = { error: String(error) };
  }
  pool.close();
  console.log(JSON.stringify({ step: step.name, ...told }));
}
