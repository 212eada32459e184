/** A small real HTTP server whose faults a test chooses, and which remembers what it was asked. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

/**
 * @typedef {{ method: string, url: string, headers: import("node:http").IncomingHttpHeaders, body: string }} Seen
 * @typedef {(request: Seen, response: import("node:http").ServerResponse) => void} Answer
 */

/**
 * Answers each request with the next of `answers`, the last one again and again.
 *
 * @param {import("node:test").TestContext} context
 * @param {...Answer} answers
 */
export async function serve(context, ...answers) {
  /** @type {Seen[]} */
  const seen = [];
  const server = createServer((request, response) => {
    /** @type {Buffer[]} */
    const body = [];
    request.on("data", (chunk) => body.push(chunk));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      const found = { method, url, headers, body: Buffer.concat(body).toString() };
      const answer = answers[Math.min(seen.length, answers.length - 1)];
      seen.push(found);
      answer?.(found, response);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { baseUrl: `http://127.0.0.1:${port}/api/v1`, seen };
}

/**
 * @param {unknown} body
 * @param {number} [status]
 * @param {Record<string, string>} [headers]
 * @returns {Answer}
 */
export function json(body, status = 200, headers = {}) {
  return (_, response) => void response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
}

/**
 * WebSockets beside a server's answers: each connection gets the next of `scripts`, which sends texts and may break it off.
 *
 * @param {import("node:test").TestContext} context
 * @param {...(send: (message: unknown) => void, breakOff: () => void) => void} scripts
 */
export async function serveSockets(context, ...scripts) {
  /** @type {string[]} */
  const urls = [];
  const server = createServer((_, response) => void response.writeHead(200, { "Content-Type": "application/json" }).end("{}"));
  server.on("upgrade", (request, socket) => {
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    const head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", `Sec-WebSocket-Accept: ${accept}`];
    socket.write(`${head.join("\r\n")}\r\nSec-WebSocket-Protocol: llm-platform\r\n\r\n`);
    socket.on("error", () => {});
    const send = (/** @type {unknown} */ message) => {
      const text = Buffer.from(JSON.stringify(message));
      const length = Buffer.alloc(2);
      length.writeUInt16BE(text.length);
      socket.write(Buffer.concat([Buffer.from([0x81]), text.length < 126 ? Buffer.from([text.length]) : Buffer.from([126, ...length]), text]));
    };
    const script = scripts[urls.length];
    urls.push(request.url ?? "");
    script?.(send, () => void socket.destroy());
    context.after(() => void socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => void server.close());
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { baseUrl: `http://127.0.0.1:${port}/api/v1`, urls };
}

/** @type {Answer} The connection breaks off without an answer. */
export const lost = (_, response) => void response.destroy();

/** @type {Answer} Nothing comes, ever. */
export const silent = () => {};
