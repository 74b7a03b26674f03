import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** A refused or broken call. */
export class ClaudepoolError extends Error {
  override readonly name = "ClaudepoolError";
  /** The gRPC code. */
  readonly code: Code;
  /** The word of docs/errors.md; empty if the server did not answer. */
  readonly reason: string;
  /** Milliseconds, if the server says when to try again. */
  readonly retryAfterMs: number | undefined;
  /** What is wrong, by field path. */
  readonly violations: Record<string, string>;

  constructor(cause: ConnectError) {
    const info = cause.findDetails(ErrorInfoSchema).find((info) => info.domain === "claudepool");
    const retry = cause.findDetails(RetryInfoSchema)[0]?.retryDelay;
    super(`${info?.reason ?? Code[cause.code]}: ${cause.rawMessage}`, { cause });
    this.code = cause.code;
    this.reason = info?.reason ?? "";
    this.retryAfterMs = retry && durationMs(retry);
    const violations = cause.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations);
    this.violations = Object.fromEntries(violations.map((v) => [v.field, v.description]));
  }

  /** What an error of a stub says. */
  static from(error: unknown): ClaudepoolError {
    return error instanceof ClaudepoolError ? error : new ClaudepoolError(ConnectError.from(error));
  }

  /** Whether the connection broke, or the server is not there for now. Canceled
   * is the caller's own wish too: look at the signal first. */
  get broken(): boolean {
    switch (this.code) {
      case Code.Unavailable:
        return true;
      // How the libraries below tell that a connection has ended.
      case Code.Unknown:
      case Code.Internal:
      case Code.Aborted:
      case Code.Canceled:
        return this.reason === "";
      default:
        return false;
    }
  }

  /** Whether the server stops or starts: it, or another, answers before long. */
  get passing(): boolean {
    return this.reason === "DRAINING" || this.reason === "STARTING";
  }
}

/** A stream that ended too soon. */
export const endedEarly = () =>
  new ClaudepoolError(new ConnectError("the stream ended before the task did", Code.Unavailable));
