/** How the SDK follows a log when the connection does not hold. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LLMPlatformClient, NotFound } from "@llm-platform/sdk";

import { json, lost, serve } from "./server.js";

const END = 'event: end\ndata: {"status": "completed"}\n\n';

/** @param {number} number */
function line(number) {
  const values = { run_id: "r", timestamp: "2025-12-13T01:00:00Z", agent: "TrainingAgent", agent_name: "training", level: "INFO", message: `line ${number}` };
  return `id: r:${number}\ndata: ${JSON.stringify(values)}\n\n`;
}

/**
 * A stream of 20 lines, of which each connection gives those behind its Last-Event-ID up to a fault.
 *
 * @param {number[]} breakAfter
 * @returns {import("./server.js").Answer}
 */
function breaking(breakAfter) {
  return ({ headers }, response) => {
    const from = Number(String(headers["last-event-id"] ?? "r:0").split(":")[1]);
    const stop = breakAfter.shift();
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(": welcome\n\n");
    for (let number = from + 1; number <= Math.min(stop ?? 20, 20); number++) response.write(line(number));
    if (stop === undefined) response.end(END);
    else if (stop % 2) response.end("id: r:99\ndata: half a li");
    else response.destroy();
  };
}

const ALL = Array.from({ length: 20 }, (_, index) => `line ${index + 1}`);

test("a broken stream goes on behind the last line", async (context) => {
  const { baseUrl, seen } = await serve(context, breaking([0, 3, 3, 8]));
  const messages = [];
  for await (const log of new LLMPlatformClient({ baseUrl }).logs.stream("r")) messages.push(log.message);
  assert.deepEqual(messages, ALL);
  const cursors = seen.map((call) => call.headers["last-event-id"]);
  assert.equal(cursors[0], undefined);
  assert.equal(cursors.at(2), "r:3");
  assert.equal(seen.length, 5);
});

test("a stream outlives a busy and an absent platform", async (context) => {
  const { baseUrl, seen } = await serve(context, json("busy", 503), lost, json("many", 429), json("failed", 500), breaking([]));
  const messages = [];
  for await (const log of new LLMPlatformClient({ baseUrl }).logs.stream("r", { after: "r:17" })) messages.push(log.message);
  assert.deepEqual(messages, ALL.slice(17));
  assert.deepEqual(seen.map((call) => call.headers["last-event-id"]), Array(5).fill("r:17"));
});

test("onmessage gets the same, as events, and hears of the end", async (context) => {
  const { baseUrl } = await serve(context, breaking([5]));
  const stream = new LLMPlatformClient({ baseUrl }).logs.stream("r");
  /** @type {import("@llm-platform/sdk").LogEvent[]} */
  const events = [];
  const status = await new Promise((resolve) => {
    stream.onmessage = (event) => void events.push(event);
    stream.onend = resolve;
  });
  assert.equal(status, "completed");
  assert.deepEqual(events.map((event) => JSON.parse(event.data).message), ALL);
  const first = events[0];
  assert.ok(first instanceof MessageEvent);
  assert.deepEqual([first.type, first.lastEventId, first.log.agentName, JSON.parse(first.data).agent_name], ["message", "r:1", "training", "training"]);
  await assert.rejects(stream[Symbol.asyncIterator]().next(), /being read already/);
});

test("closing ends the stream in both ways", async (context) => {
  const { baseUrl, seen } = await serve(context, (_, response) => void response.writeHead(200).write(line(1)));
  const { logs } = new LLMPlatformClient({ baseUrl });
  const read = logs.stream("r");
  for await (const log of read) {
    assert.equal(log.message, "line 1");
    setTimeout(() => read.close(), 20);
  }
  const listened = logs.stream("r");
  await new Promise((resolve, reject) => {
    listened.onerror = listened.onend = reject;
    listened.onmessage = () => {
      listened.close();
      setImmediate(resolve, undefined);
    };
  });
  for await (const log of logs.stream("r")) if (log.message === "line 1") break;
  assert.equal(seen.length, 3);
  const aborted = async () => {
    for await (const log of logs.stream("r", { signal: AbortSignal.timeout(50) })) assert.equal(log.message, "line 1");
  };
  await assert.rejects(aborted, { name: "TimeoutError" });
});

test("what the platform refuses ends the stream with its error", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ error: "NOT_FOUND", message: "There is no run 'r'", metadata: {} }, 404));
  const { logs } = new LLMPlatformClient({ baseUrl });
  await assert.rejects(logs.stream("r")[Symbol.asyncIterator]().next(), NotFound);
  const stream = logs.stream("r");
  const error = await new Promise((resolve) => {
    stream.onmessage = () => assert.fail();
    stream.onerror = resolve;
  });
  assert.ok(error instanceof NotFound);
  assert.equal(seen.length, 2);
});

test("events are cut at blank lines wherever the bytes are cut, and may hold any other separator", async (context) => {
  const values = { run_id: "r", timestamp: "t", agent: null, agent_name: null, level: "METRIC", message: "ü\u2028\u0085€", learning_rate: 0.1 };
  const raw = Buffer.from(`: hi\r\n\r\nid: r:1\r\ndata: ${JSON.stringify(values).replace(",", ",\r\ndata: ")}\r\n\r\n${END}`);
  const { baseUrl, seen } = await serve(context, (_, response) => {
    const size = seen.length;
    const send = async () => {
      for (let at = 0; at < raw.length; at += size) {
        response.write(raw.subarray(at, at + size));
        await new Promise(setImmediate);
      }
      response.end();
    };
    void send();
  });
  for (let size = 1; size < 8; size++) {
    const found = [];
    for await (const log of new LLMPlatformClient({ baseUrl }).logs.stream("r")) found.push(log);
    const { run_id, agent_name, ...rest } = values;
    assert.deepEqual(found, [{ runId: run_id, agentName: agent_name, ...rest }]);
  }
});
