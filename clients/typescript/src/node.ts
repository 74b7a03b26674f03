/** The client on Node, over gRPC. */
import { connect as dial } from "node:net";
import type { SecureClientSessionOptions } from "node:http2";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Client, interceptors } from "./index.js";

export * from "./index.js";

export interface ConnectOptions {
  /** Sent with every call; over TLS or loopback only. */
  token?: string;
  /** How to do TLS (`ca`, `cert`, `key` in PEM). Without it an https address
   * trusts the system's roots. */
  tls?: SecureClientSessionOptions;
}

/** A client of the server at `http://host:port`, `https://host:port`,
 * `host:port` or `unix:/path`. It connects when it is first used. */
export function connect(address = "127.0.0.1:50051", { token, tls }: ConnectOptions = {}): Client {
  const path = /^unix:(?:\/\/)?(\/.*)$/.exec(address)?.[1];
  const url = new URL(path ? "http://localhost" : address.includes("://") ? address : `http${tls ? "s" : ""}://${address}`);
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new TypeError(`${address}: say http://host:port, https://host:port or unix:/path`);
  }
  if (token && url.protocol === "http:" && !/^(localhost|127\.[\d.]+|\[::1\])$/.test(url.hostname)) {
    throw new TypeError("a token is sent over TLS or loopback only: say https://");
  }
  const sessions = new Http2SessionManager(
    url.origin,
    // A connection that has died silently is found out.
    { pingIntervalMs: 30_000, pingTimeoutMs: 20_000 },
    path ? { createConnection: () => dial(path) } : tls,
  );
  const transport = createGrpcTransport({
    baseUrl: url.origin,
    interceptors: interceptors(token),
    sessionManager: sessions,
  });
  return new Client(transport, () => sessions.abort());
}
