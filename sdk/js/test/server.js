/** A small real HTTP server whose faults a test chooses, and which remembers what it was asked. */

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

/** @type {Answer} The connection breaks off without an answer. */
export const lost = (_, response) => void response.destroy();

/** @type {Answer} Nothing comes, ever. */
export const silent = () => {};
