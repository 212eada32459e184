/** Downloads whose connection breaks off. */

import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { LLMPlatformClient } from "@llm-platform/sdk";

import { serve } from "./server.js";

const BYTES = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));

/**
 * An archive of which each connection gives `piece` bytes.
 *
 * @param {number} piece
 * @param {() => string} etag
 * @returns {import("./server.js").Answer}
 */
function archive(piece, etag) {
  return ({ headers }, response) => {
    const range = headers["if-range"] === etag() ? headers.range : undefined;
    const from = Number(/bytes=(\d+)-/.exec(range ?? "bytes=0-")?.[1]);
    response.writeHead(range ? 206 : 200, {
      ETag: etag(),
      "Content-Length": BYTES.length - from,
      "Content-Disposition": 'attachment; filename="../adapter.tar"',
    });
    response.write(BYTES.subarray(from, from + piece), () => (from + piece < BYTES.length ? response.destroy() : response.end()));
  };
}

/** @param {import("node:test").TestContext} context */
async function temporary(context) {
  const folder = await mkdtemp(join(tmpdir(), "llm-platform-sdk-"));
  context.after(() => rm(folder, { recursive: true }));
  return folder;
}

test("a download goes on behind the last byte", async (context) => {
  const folder = await temporary(context);
  const { baseUrl, seen } = await serve(context, archive(40_000, () => '"1"'));
  const file = await new LLMPlatformClient({ baseUrl }).models.download("model_a", { path: folder });
  assert.equal(file, join(folder, "adapter.tar"));
  assert.ok((await readFile(file)).equals(BYTES));
  assert.deepEqual(seen.map((call) => call.headers.range), [undefined, "bytes=40000-", "bytes=80000-"]);
  assert.equal(seen[0]?.url, "/api/v1/models/model_a/download?format=adapter");
});

test("what has changed meanwhile is not spliced, and leaves nothing behind", async (context) => {
  const folder = await temporary(context);
  let version = 0;
  const { baseUrl } = await serve(context, archive(40_000, () => `"${(version += 0.5)}"`));
  const { models } = new LLMPlatformClient({ baseUrl });
  await assert.rejects(models.download("model_a", { path: join(folder, "x.tar") }), { name: "ServiceUnavailable", message: /has changed/ });
  assert.deepEqual(await readdir(folder), []);
});

test("a download can be aborted or left", async (context) => {
  const folder = await temporary(context);
  const { baseUrl } = await serve(context, (_, response) => void response.writeHead(200, { ETag: '"1"' }).write(BYTES));
  const { models } = new LLMPlatformClient({ baseUrl });
  const path = join(folder, "x.tar");
  await assert.rejects(models.download("model_a", { path, signal: AbortSignal.timeout(100) }), { name: "TimeoutError" });
  assert.deepEqual(await readdir(folder), []);
  const { stream, filename, sizeBytes } = await models.stream("model_a");
  assert.deepEqual([filename, sizeBytes], ["adapter.tar", null]);
  for await (const chunk of stream) {
    assert.ok(chunk.length > 0);
    break;
  }
});
