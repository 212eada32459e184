/** How the SDK keeps a channel when its connection does not hold. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LLMPlatformClient, ServiceUnavailable } from "@llm-platform/sdk";

import { serveSockets } from "./server.js";

/** @param {number} number */
function line(number) {
  const data = { run_id: "r", timestamp: "2025-12-13T01:00:00Z", agent: "TrainingAgent", agent_name: "training", level: "INFO", message: `line ${number}` };
  return { type: "log", id: `r:${number}`, data };
}

test("a broken channel goes on behind the last line", async (context) => {
  const { baseUrl, urls } = await serveSockets(
    context,
    (send, breakOff) => {
      send({ type: "presence", event: "list", user: null, users: [] });
      send(line(1));
      send({ type: "heartbeat" });
      send(line(2));
      setTimeout(breakOff, 20);
    },
    (_, breakOff) => breakOff(),
    (send) => {
      send(line(3));
      send({ type: "end", status: "completed" });
    },
  );
  const seen = [];
  for await (const message of new LLMPlatformClient({ baseUrl }).runs.channel("r")) {
    seen.push(message.type === "log" ? `${message.log.agentName} ${message.id}` : message.type);
  }
  assert.deepEqual(seen, ["presence", "training r:1", "training r:2", "training r:3", "end"]);
  assert.deepEqual(urls, ["/api/v1/ws/runs/r", "/api/v1/ws/runs/r?after=r%3A2", "/api/v1/ws/runs/r?after=r%3A2"]);
});

test("a command whose answer was lost says so, and a closed channel ends", async (context) => {
  const { baseUrl } = await serveSockets(context, (_, breakOff) => void setTimeout(breakOff, 200), (send) => send(line(1)));
  const channel = new LLMPlatformClient({ baseUrl }).runs.channel("r");
  await assert.rejects(channel.comment("hello"), ServiceUnavailable);
  for await (const message of channel) {
    assert.equal(message.type, "log");
    channel.close();
  }
  await assert.rejects(channel.cancel(), ServiceUnavailable);
});
