/**
 * Client of claudepool over any transport of Connect. On Node:
 * `import { connect } from "@claudepool/client/node"`. In a browser, by gRPC-Web:
 *
 *     const pool = new Client(createGrpcWebTransport({ baseUrl, interceptors: interceptors() }));
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type Client as Stub,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import { ClaudepoolError, endedEarly } from "./errors.js";
import { bearer, pause, requestIds, retries } from "./interceptors.js";
import { CatalogService } from "./gen/claudepool/v1/catalog_service_pb.js";
import { ContextService } from "./gen/claudepool/v1/context_service_pb.js";
import type { Event } from "./gen/claudepool/v1/event_pb.js";
import { OperatorService } from "./gen/claudepool/v1/operator_service_pb.js";
import { PoolService, type RunAccepted } from "./gen/claudepool/v1/pool_service_pb.js";
import { type TaskResult, TaskSpecSchema } from "./gen/claudepool/v1/task_pb.js";

export { ClaudepoolError } from "./errors.js";

/** Longest time for which a broken stream is taken up again without an answer. */
const RECONNECT_MS = 30_000;
/** The same before the server has answered at all. */
const CONNECT_MS = 5_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;

/** A prompt, or all that a task can be asked for. */
export type Task = string | MessageInitShape<typeof TaskSpecSchema>;

export interface CallOptions {
  /** Ends the call; a task that was run is cancelled. */
  signal?: AbortSignal;
  /** Milliseconds for all of it, however often it has to connect. */
  timeoutMs?: number;
}

/** What a transport of one's own should be made with. */
export function interceptors(token?: string): Interceptor[] {
  return token ? [requestIds, bearer(token), retries] : [requestIds, retries];
}

const spec = (task: Task) =>
  create(TaskSpecSchema, typeof task === "string" ? { input: { case: "prompt", value: task } } : task);

/** The helpers, and the stubs of every service. What a stub throws is read by
 * `ClaudepoolError.from`. */
export class Client {
  readonly pool: Stub<typeof PoolService>;
  readonly operator: Stub<typeof OperatorService>;
  readonly catalog: Stub<typeof CatalogService>;
  readonly context: Stub<typeof ContextService>;

  /** `close`: ends what the transport holds open. */
  constructor(
    readonly transport: Transport,
    readonly close: () => void = () => {},
  ) {
    this.pool = createClient(PoolService, transport);
    this.operator = createClient(OperatorService, transport);
    this.catalog = createClient(CatalogService, transport);
    this.context = createClient(ContextService, transport);
  }

  /** Runs a task and gives its result. A task that failed is an answer too: see
   * `failure`. */
  async run(task: Task, options: CallOptions = {}): Promise<TaskResult> {
    for await (const { kind } of this.runStream(task, options)) {
      if (kind.case === "finished" && kind.value.result) return kind.value.result;
    }
    throw endedEarly();
  }

  /** Runs a task and gives its events. A broken connection is taken up again;
   * the task waits for that a few seconds. */
  runStream(task: Task, options: CallOptions = {}): TaskStream {
    const request = { task: spec(task), requestId: crypto.randomUUID() };
    const attach: Attach = (afterSequence, call) => this.pool.runStream({ ...request, afterSequence }, call);
    return new TaskStream(attach, 0n, options, "");
  }

  /** A task's events after a sequence, each once, until the task ends. */
  watch(taskId: string, afterSequence = 0n, options: CallOptions = {}): TaskStream {
    const attach: Attach = (afterSequence, call) => this.pool.watchTask({ taskId, afterSequence }, call);
    return new TaskStream(attach, afterSequence, options, taskId);
  }

  /** Makes a task durable and gives its id. It runs once, however often the call
   * had to be sent. */
  async submit(task: Task, options: CallOptions = {}): Promise<string> {
    try {
      return (await this.pool.submit({ task: spec(task) }, options)).taskId;
    } catch (error) {
      throw ClaudepoolError.from(error);
    }
  }
}

type Item = { case: "event"; value: Event } | { case: "accepted"; value: RunAccepted } | { case: unknown };
type Attach = (afterSequence: bigint, call: CallOptions) => AsyncIterable<{ item: Item }>;

/** A task's events. Leaving the loop early ends the call. */
export class TaskStream implements AsyncIterable<Event> {
  /** The task's id; empty until the server has told it. */
  taskId: string;

  constructor(
    private readonly attach: Attach,
    private sequence: bigint,
    private readonly options: CallOptions,
    taskId: string,
  ) {
    this.taskId = taskId;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    const { signal, timeoutMs } = this.options;
    const deadline = timeoutMs === undefined ? Infinity : Date.now() + timeoutMs;
    let attached = false;
    let wait = FIRST_PAUSE_MS;
    let brokenAt: number | undefined;
    for (;;) {
      const call = new AbortController();
      const remaining = Math.max(deadline - Date.now(), 1);
      let broken: ClaudepoolError;
      try {
        const answers = this.attach(this.sequence, {
          signal: signal ? AbortSignal.any([signal, call.signal]) : call.signal,
          ...(timeoutMs !== undefined && { timeoutMs: remaining }),
        });
        for await (const { item } of answers) {
          [attached, wait, brokenAt] = [true, FIRST_PAUSE_MS, undefined];
          if (isAccepted(item)) this.taskId = item.value.taskId;
          if (!isEvent(item) || item.value.sequence <= this.sequence) continue;
          this.sequence = item.value.sequence;
          yield item.value;
          if (item.value.kind.case === "finished") return;
        }
        broken = endedEarly();
      } catch (error) {
        broken = ClaudepoolError.from(error);
      } finally {
        call.abort();
      }
      // A server that restarts says so, and is worth waiting for.
      attached ||= broken.passing;
      const hopeless = signal?.aborted || !broken.broken || (broken.reason !== "" && !attached);
      brokenAt ??= Date.now();
      if (hopeless || Date.now() - brokenAt > (attached ? RECONNECT_MS : CONNECT_MS)) throw broken;
      if (Date.now() >= deadline) {
        throw new ClaudepoolError(new ConnectError("the deadline passed", Code.DeadlineExceeded));
      }
      await pause(Math.min(Math.max(wait, broken.retryAfterMs ?? 0), Math.max(deadline - Date.now(), 0)), signal);
      wait = Math.min(2 * wait, LONGEST_PAUSE_MS);
    }
  }
}

const isAccepted = (item: Item): item is { case: "accepted"; value: RunAccepted } => item.case === "accepted";
const isEvent = (item: Item): item is { case: "event"; value: Event } => item.case === "event";
