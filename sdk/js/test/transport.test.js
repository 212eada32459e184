/** What the SDK does when the platform is busy, away, or says no. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { test } from "node:test";
import { promisify } from "node:util";

import * as sdk from "@llm-platform/sdk";

import { json, lost, serve, silent } from "./server.js";

const { LLMPlatformClient, PlatformError, RateLimited, ServiceUnavailable } = sdk;

const TIME = "2025-12-13T01:00:00Z";
const DATASET = { dataset_id: "ds_1", filename: "a.csv", format: "csv", rows: 1, columns: ["text"], created_at: TIME, s3_path: "s3://datasets/a" };
const CREATED = { job_id: "job_a", run_id: "a", status: "pending", created_at: TIME };
const PROGRESS = { completed_agents: [], current_agent: null, total_agents: 1 };
const ERROR = { error: "DATASET_ERROR", message: "bad rows", metadata: { row: 3 } };
const busy = json({ error: "SERVICE_UNAVAILABLE", message: "Later", metadata: {} }, 503);

test("a GET is repeated when the platform is busy, fails, or breaks off", async (context) => {
  for (const fault of [busy, json("bad gateway", 502), json("broken", 500), json("many", 429, { "Retry-After": "0" }), lost]) {
    const { baseUrl, seen } = await serve(context, fault, json(DATASET));
    const dataset = await new LLMPlatformClient({ baseUrl }).datasets.get("ds_1");
    assert.equal(dataset.s3Path, "s3://datasets/a");
    assert.equal(seen.length, 2);
  }
});

test("Retry-After is waited for", async (context) => {
  const { baseUrl } = await serve(context, json("many", 429, { "Retry-After": "1" }), json(DATASET));
  const started = performance.now();
  await new LLMPlatformClient({ baseUrl }).datasets.get("ds_1");
  assert.ok(performance.now() - started > 990, "the pause would be 313 ms at most without it");
});

test("retries end", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ error: "RATE_LIMITED", message: "Too many", metadata: { limit: 100 } }, 429));
  const client = new LLMPlatformClient({ baseUrl, maxRetries: 1 });
  await assert.rejects(client.datasets.get("ds_1"), (error) => {
    assert.ok(error instanceof RateLimited && error instanceof PlatformError && error instanceof Error);
    assert.deepEqual([error.name, error.message, error.metadata, error.status], ["RateLimited", "Too many", { limit: 100 }, 429]);
    return true;
  });
  assert.equal(seen.length, 2);
});

test("what the platform refuses is not repeated", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ error: "CONFLICT", message: "No", metadata: {} }, 409, { "X-Request-Id": "r1" }));
  await assert.rejects(new LLMPlatformClient({ baseUrl }).jobs.cancel("job_a"), { name: "Conflict", requestId: "r1" });
  assert.equal(seen.length, 1);
});

test("a job is stopped and kept", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ job_id: "job_a", status: "cancelled", keeps: ["training"] }));
  const { jobs } = new LLMPlatformClient({ baseUrl });
  assert.deepEqual(await jobs.cancel("job_a", { keep: true }), { jobId: "job_a", status: "cancelled", keeps: ["training"] });
  await jobs.cancel("job_a");
  assert.deepEqual(seen.map((call) => call.url), ["/api/v1/jobs/job_a?keep=true", "/api/v1/jobs/job_a"]);
});

test("a submission is repeated under one run id", async (context) => {
  const { baseUrl, seen } = await serve(context, lost, busy, json(CREATED));
  /** @type {any} */
  const node = { agentName: "d", agentClass: "DatasetAgent", config: { filePath: 1, template_mapping: { aB: "c" } } };
  const pipeline = { nodes: [node] };
  await new LLMPlatformClient({ baseUrl }).jobs.create({ pipelineConfig: { ...pipeline, globalConfig: { maxRetries: 3 } } });
  assert.equal(new Set(seen.map((call) => call.body)).size, 1);
  const sent = JSON.parse(seen[0]?.body ?? "").pipeline_config;
  assert.match(sent.run_id, /^[0-9a-f]{16}$/);
  assert.deepEqual(sent.global_config, { max_retries: 3 });
  assert.deepEqual(sent.nodes, [{ agent_name: "d", agent_class: "DatasetAgent", config: { filePath: 1, template_mapping: { aB: "c" } } }]);
});

test("a body of the REST API is taken as it is", async (context) => {
  const { baseUrl, seen } = await serve(context, json(CREATED));
  /** @type {import("@llm-platform/sdk").JobRequest} */
  const body = { pipeline_config: { run_id: "a", nodes: [{ agent_name: "d", agent_class: "DatasetAgent", config: {} }], edges: [] } };
  await new LLMPlatformClient({ baseUrl }).jobs.create(body);
  assert.deepEqual(JSON.parse(seen[0]?.body ?? ""), body);
});

test("an upload is sent again under the same key, so that it stays one dataset", async (context) => {
  for (const fault of [busy, lost]) {
    const { baseUrl, seen } = await serve(context, fault, json({ ...DATASET, size_bytes: 4, analysis: null }));
    await new LLMPlatformClient({ baseUrl }).datasets.upload(Buffer.from("a\n1\n"));
    const keys = seen.map(({ headers }) => headers["idempotency-key"]);
    assert.equal(keys.length, 2);
    assert.match(String(keys[0]), /^[0-9a-f-]{36}$/);
    assert.equal(keys[0], keys[1]);
    assert.ok(seen[1]?.body.includes("\r\n\r\na\n1\n\r\n"));
  }
  const { baseUrl, seen } = await serve(context, json("many", 429), json({ ...DATASET, size_bytes: 4, analysis: null }));
  await new LLMPlatformClient({ baseUrl }).datasets.upload(new Blob(["a\n1\n"]), { format: "csv", filename: 'x"\r\n.csv' });
  const boundary = seen[1]?.headers["content-type"]?.split("boundary=")[1];
  const file = 'Content-Disposition: form-data; name="file"; filename="x%22%0D%0A.csv"\r\nContent-Type: application/octet-stream\r\n\r\na\n1\n';
  const format = 'Content-Disposition: form-data; name="format"\r\n\r\ncsv';
  assert.equal(seen[1]?.body, `--${boundary}\r\n${format}\r\n--${boundary}\r\n${file}\r\n--${boundary}--\r\n`);
});

test("filters of lists and logs go into the query", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ models: [], total: 0, limit: 5, offset: 0, has_more: false }));
  const client = new LLMPlatformClient({ baseUrl });
  await client.models.list({ limit: 5, baseModel: "b", name: "n", alias: "a", minMetric: { f1: 0.5, "arc.easy": 1 }, maxMetric: { loss: 2 }, sort: "-f1" });
  const asked = new URLSearchParams(seen[0]?.url.split("?")[1]);
  assert.deepEqual(asked.getAll("min_metric"), ["f1:0.5", "arc.easy:1"]);
  asked.delete("min_metric");
  const rest = { limit: "5", offset: "0", base_model: "b", max_metric: "loss:2", name: "n", alias: "a", sort: "-f1" };
  assert.deepEqual(Object.fromEntries(asked), rest);
  await client.models.list();
  assert.equal(seen[1]?.url, "/api/v1/models?limit=20&offset=0");
});

test("nobody there is said clearly, and tried again whatever the call is", async (context) => {
  const placeholder = createServer().listen(0, "127.0.0.1");
  await once(placeholder, "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (placeholder.address());
  placeholder.close();
  let refused = 0;
  const count = () => void refused++;
  subscribe("undici:client:connectError", count);
  context.after(() => unsubscribe("undici:client:connectError", count));
  const client = new LLMPlatformClient({ baseUrl: `http://127.0.0.1:${port}/api/v1`, maxRetries: 1 });
  await assert.rejects(client.datasets.upload(Buffer.from("a")), (error) => {
    assert.ok(error instanceof ServiceUnavailable);
    assert.match(error.message, new RegExp(`${port}/api/v1 cannot be reached.*is it running`));
    return true;
  });
  assert.equal(refused, 2);
});

test("a silent platform runs into the timeout, a caller may abort before", async (context) => {
  const { baseUrl } = await serve(context, silent);
  const client = new LLMPlatformClient({ baseUrl, timeout: 100, maxRetries: 0 });
  await assert.rejects(client.jobs.get("job_a"), { name: "ServiceUnavailable", message: /did not answer in time/ });
  const patient = new LLMPlatformClient({ baseUrl });
  await assert.rejects(patient.jobs.get("job_a", { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
  await assert.rejects(patient.jobs.get("job_a", { signal: AbortSignal.abort(new Error("mine")) }), { message: "mine" });
});

test("a pause between two attempts can be aborted", async (context) => {
  const controller = new AbortController();
  const { baseUrl } = await serve(context, (request, response) => {
    json("many", 429, { "Retry-After": "60" })(request, response);
    setTimeout(() => controller.abort(new Error("enough")), 50);
  });
  await assert.rejects(new LLMPlatformClient({ baseUrl }).jobs.get("job_a", { signal: controller.signal }), { message: "enough" });
});

test("an answer without an error body is still an error", async (context) => {
  const kinds = { 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 418: "PlatformError", 502: "ServiceUnavailable" };
  for (const [text, name] of Object.entries(kinds)) {
    const status = Number(text);
    const { baseUrl } = await serve(context, (_, response) => void response.writeHead(status).end("<html>no</html>"));
    const client = new LLMPlatformClient({ baseUrl, maxRetries: 0 });
    await assert.rejects(client.jobs.get("job_a"), { name, message: new RegExp(`GET /jobs/job_a was answered with ${status}`) });
  }
});

test("every code of the platform has its class", async (context) => {
  const kinds = Object.values(sdk).filter((value) => typeof value === "function" && value.prototype instanceof PlatformError);
  assert.equal(kinds.length, 13);
  for (const kind of /** @type {(typeof PlatformError)[]} */ (kinds)) {
    const { baseUrl } = await serve(context, json({ error: kind.code, message: "no", metadata: { a_b: 1 } }, kind.status));
    const client = new LLMPlatformClient({ baseUrl, maxRetries: 0 });
    await assert.rejects(client.jobs.get("job_a"), { name: kind.name, code: kind.code, status: kind.status, metadata: { a_b: 1 } });
  }
  const { baseUrl } = await serve(context, json({ error: "OF_TOMORROW", message: "no", metadata: {} }, 400));
  await assert.rejects(new LLMPlatformClient({ baseUrl }).jobs.get("job_a"), { name: "PlatformError", message: "no" });
});

test("a status and a code have the class that they have in the Python SDK", async (context) => {
  /** @type {{ statuses: Record<string, string>, codes: Record<string, string>, apart: { status: number, code: string, class: string }[],
   *   odd: { status: number, text: string, class: string, message: string | null, metadata: object }[] }} */
  const table = JSON.parse(await readFile(new URL("errors.json", import.meta.url), "utf8"));
  /** @type {{ status: number, text: string, expected: Record<string, unknown> }[]} */
  const cases = [];
  for (const [word, bare] of Object.entries(table.statuses)) {
    const status = Number(word);
    cases.push({ status, text: "busy", expected: { name: bare } });
    for (const [code, usual] of Object.entries(table.codes)) {
      const name = table.apart.find((row) => row.status === status && row.code === code)?.class ?? usual;
      cases.push({ status, text: JSON.stringify({ error: code, message: "no", metadata: {} }), expected: { name, message: "no" } });
    }
  }
  assert.ok(cases.length > 200);
  for (const { status, text, class: name, message, metadata } of table.odd) {
    cases.push({ status, text, expected: { name, metadata, message: message ?? new RegExp(`was answered with ${status}`) } });
  }
  const { baseUrl } = await serve(context, ({ url }, response) => {
    const { status, text } = cases[Number(url.split("/").pop())] ?? { status: 418, text: "" };
    response.writeHead(status, { "X-Request-Id": `r${url}` }).end(text);
  });
  const client = new LLMPlatformClient({ baseUrl, maxRetries: 0 });
  for (const [number, { expected }] of cases.entries()) {
    await assert.rejects(client.jobs.get(String(number)), { ...expected, requestId: `r/api/v1/jobs/${number}` });
  }
});

test("keys are made, listed and revoked", async (context) => {
  const key = { key_id: "k/1", owner: "alice", scope: "read", created_at: TIME, expires_at: null, revoked_at: null };
  const page = { items: [key], total: 1, limit: 20, offset: 0, has_more: false };
  const { baseUrl, seen } = await serve(context, json({ ...key, key: "llmp_x" }), json(key), json(page), busy, json({ ...key, revoked_at: TIME }));
  const { keys } = new LLMPlatformClient({ baseUrl });
  const made = await keys.create("alice", { scope: "read", expiresInDays: 7 });
  assert.deepEqual([made.key, made.keyId, made.expiresAt], ["llmp_x", "k/1", null]);
  await keys.create("bob");
  assert.deepEqual((await keys.list()).items.map((item) => item.createdAt), [TIME]);
  assert.equal((await keys.revoke("k/1")).revokedAt, TIME);
  assert.deepEqual(
    seen.map(({ method, url }) => `${method} ${url}`),
    ["POST /api/v1/keys", "POST /api/v1/keys", "GET /api/v1/keys?limit=20&offset=0", ...Array(2).fill("DELETE /api/v1/keys/k%2F1")],
  );
  assert.deepEqual(JSON.parse(seen[0]?.body ?? ""), { owner: "alice", scope: "read", expires_in_days: 7 });
  assert.deepEqual(JSON.parse(seen[1]?.body ?? ""), { owner: "bob", scope: "write", expires_in_days: null });
});

test("a key is not made twice: a call whose answer was lost is not repeated", async (context) => {
  for (const fault of [busy, lost]) {
    const { baseUrl, seen } = await serve(context, fault);
    await assert.rejects(new LLMPlatformClient({ baseUrl }).keys.create("alice"), ServiceUnavailable);
    assert.equal(seen.length, 1);
  }
});

test("the audit log is filtered and read to its end", async (context) => {
  const entry = { entry_id: 7, at: TIME, actor: null, key_id: "k1", action: "job.submit", target: "job_a", client: null, request_id: "r1" };
  const { baseUrl, seen } = await serve(
    context,
    json({ items: [entry], total: 2, limit: 1, offset: 0, has_more: true }),
    json({ items: [{ ...entry, entry_id: 6 }], total: 2, limit: 1, offset: 1, has_more: false }),
  );
  const { audit } = new LLMPlatformClient({ baseUrl });
  const found = [];
  for await (const { entryId, keyId, requestId } of audit.list({ limit: 1, actor: "alice", action: "job.submit", since: new Date(TIME) })) {
    found.push([entryId, keyId, requestId]);
  }
  assert.deepEqual(found, [[7, "k1", "r1"], [6, "k1", "r1"]]);
  const asked = seen.map(({ url }) => Object.fromEntries(new URL(url, baseUrl).searchParams));
  const filters = { limit: "1", actor: "alice", action: "job.submit", since: "2025-12-13T01:00:00.000Z" };
  assert.deepEqual(asked, [{ ...filters, offset: "0" }, { ...filters, offset: "1" }]);
  await audit.list({ since: "2025-12-13T02:00:00+01:00" });
  assert.equal(new URL(seen[2]?.url ?? "", baseUrl).searchParams.get("since"), "2025-12-13T02:00:00+01:00");
});

test("a proxy that finds no platform is no answer about its health", async (context) => {
  const { baseUrl, seen } = await serve(context, json("no backend", 503), json({ status: "healthy", version: "1", services: {} }), busy);
  assert.equal((await new LLMPlatformClient({ baseUrl }).health()).status, "healthy");
  assert.equal(seen.length, 2);
  await assert.rejects(new LLMPlatformClient({ baseUrl, maxRetries: 0 }).health(), (error) => {
    assert.ok(error instanceof ServiceUnavailable);
    return error.httpStatus === 503;
  });
});

test("the key is sent; that of the environment if none is given", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ status: "unhealthy", version: "1", services: { api: "healthy" } }, 503));
  const health = await new LLMPlatformClient({ baseUrl: `${baseUrl}/`, apiKey: "secret" }).health();
  assert.equal(health.status, "unhealthy");
  process.env["LLM_PLATFORM_API_KEY"] = "from the environment";
  context.after(() => delete process.env["LLM_PLATFORM_API_KEY"]);
  await new LLMPlatformClient({ baseUrl }).health();
  delete process.env["LLM_PLATFORM_API_KEY"];
  await new LLMPlatformClient({ baseUrl }).health();
  assert.deepEqual(seen.map((call) => call.headers.authorization), ["Bearer secret", "Bearer from the environment", undefined]);
  assert.equal(seen[0]?.url, "/api/v1/health");
  await assert.rejects(new LLMPlatformClient({ baseUrl, apiKey: "two\nlines" }).health(), TypeError);
  assert.equal(seen.length, 3);
});

test("waiting asks again, less and less often, until the time is up", async (context) => {
  const job = { ...CREATED, model_id: null, started_at: null, ended_at: null, progress: PROGRESS, result: null };
  const failed = { ...job, status: "failed", result: { models: [], datasets: [], artifacts: {}, metrics: {}, error: ERROR } };
  const { baseUrl, seen } = await serve(context, json(CREATED), json(job), json({ ...job, status: "running" }), json(failed));
  const created = await new LLMPlatformClient({ baseUrl }).jobs.create({ nodes: [] });
  /** @type {string[]} */
  const looks = [];
  const done = await created.wait({ onProgress: (look) => void looks.push(look.status) });
  assert.deepEqual(looks, ["pending", "running", "failed"]);
  assert.equal(seen.length, 4);
  assert.equal(done, created);
  assert.ok(created.error instanceof sdk.DatasetError);
  assert.deepEqual([created.error.message, created.error.metadata], ["bad rows", { row: 3 }]);

  const forever = await serve(context, json(job));
  const client = new LLMPlatformClient({ baseUrl: forever.baseUrl });
  await assert.rejects(client.jobs.wait("job_a", { timeout: 50 }), { name: "TimeoutError", message: /job_a is still pending/ });
  await assert.rejects(client.jobs.wait("job_a", { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
});

test("a list is one page when awaited, and everything when iterated over", async (context) => {
  const { baseUrl, seen } = await serve(context, ({ url }, response) => {
    const query = new URL(url, "http://x").searchParams;
    const [limit, offset] = [Number(query.get("limit")), Number(query.get("offset"))];
    const items = [1, 2, 3, 4, 5].slice(offset, offset + limit).map((number) => ({ ...DATASET, rows: number }));
    json({ items, total: 5, limit, offset, has_more: offset + limit < 5 })({ method: "", url, headers: {}, body: "" }, response);
  });
  const { datasets } = new LLMPlatformClient({ baseUrl });
  const page = await datasets.list({ limit: 2, offset: 1 });
  assert.deepEqual([page.items.map((item) => item.rows), page.total, page.hasMore], [[2, 3], 5, true]);
  assert.equal(seen.length, 1);
  const rows = [];
  for await (const dataset of datasets.list({ limit: 2, offset: 1 })) rows.push(dataset.rows);
  assert.deepEqual(rows, [2, 3, 4, 5]);
  const sizes = [];
  for await (const { items } of datasets.list({ limit: 3 }).pages()) sizes.push(items.length);
  assert.deepEqual(sizes, [3, 2]);
});

test("models are compared by figures that keep their names", async (context) => {
  const difference = { model_id: "model_b", differences: { final_loss: -1 }, intervals: {}, to_right: 1, to_wrong: 0, right_examples: [], wrong_examples: [] };
  const { baseUrl, seen } = await serve(context, json({ baseline: "model_a", examples: 4, models: [], differences: [difference] }));
  const found = await new LLMPlatformClient({ baseUrl }).models.compare(["model_a", "model_b"]);
  assert.deepEqual([found.differences[0]?.modelId, found.differences[0]?.differences["final_loss"]], ["model_b", -1]);
  assert.equal(seen[0]?.url, "/api/v1/models/compare?ids=model_a%2Cmodel_b");
});

test("where there is no file system, as in a browser, a form is sent", async (context) => {
  const { baseUrl, seen } = await serve(context, json({ ...DATASET, size_bytes: 4, analysis: null }));
  const program = `
    process.getBuiltinModule = undefined;
    const { LLMPlatformClient } = await import("@llm-platform/sdk");
    const { datasets } = new LLMPlatformClient({ baseUrl: "${baseUrl}" });
    await datasets.upload(new File(["a\\n1\\n"], "x.csv"), { format: "csv", onProgress: (...told) => console.log(...told) });
    await datasets.upload("x.csv").catch((error) => console.log(error.message));`;
  const options = { cwd: new URL("..", import.meta.url) };
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program], options);
  assert.equal(stdout, "4 4\nThere are no file paths here: give a Blob\n");
  assert.match(seen[0]?.body ?? "", /name="format"\r\n\r\ncsv[^]*name="file"; filename="x.csv"\r\n[^]*\r\n\r\na\n1\n\r\n/);
});
