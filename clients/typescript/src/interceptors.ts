import { clone, type DescMethod, type Message } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import type { Interceptor } from "@connectrpc/connect";
import { ClaudepoolError } from "./errors.js";

/** Waits; ends early, with the signal's reason, when it is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The request with a requestId, where it can have one and has none. */
function withRequestId(method: DescMethod, message: Message): Message {
  if ((message as { requestId?: string }).requestId !== "") return message;
  return Object.assign(clone(method.input, message), { requestId: crypto.randomUUID() });
}

/** Makes every request that creates work safe to repeat. */
export const requestIds: Interceptor = (next) => (request) => {
  if (!request.stream) {
    return next({ ...request, message: withRequestId(request.method, request.message) });
  }
  const { method, message } = request;
  return next({
    ...request,
    message: (async function* () {
      for await (const each of message) yield withRequestId(method, each);
    })(),
  });
};

/** Sends a bearer token with every call. */
export const bearer =
  (token: string): Interceptor =>
  (next) =>
  (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };

/** What clients/service-config.json says to gRPC libraries: reads and what has a
 * requestId are sent again, five times in all, when the server is not there. */
export const retries: Interceptor = (next) => async (request) => {
  const reads = request.method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
  const repeatable = !request.stream && (reads || Boolean((request.message as { requestId?: string }).requestId));
  for (let attempt = 1, wait = 100; ; attempt++, wait = Math.min(2 * wait, 2000)) {
    try {
      return await next(request);
    } catch (error) {
      const { broken, reason, retryAfterMs } = ClaudepoolError.from(error);
      if (!repeatable || attempt === 5 || request.signal.aborted || !broken || reason === "PAUSED") throw error;
      await pause(Math.max(wait * (0.5 + Math.random() / 2), retryAfterMs ?? 0), request.signal);
    }
  }
};
