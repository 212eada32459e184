/** The SDK against a real platform, one job of which trains a tiny model. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Conflict, DatasetError, InvalidConfig, InvalidInput, LLMPlatformClient, NotFound } from "@llm-platform/sdk";

import { startPlatform } from "./platform.js";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ROWS = Array.from({ length: 40 }, (_, number) => `What is ${number} plus 1?,${number + 1}`);
const CSV = `camel_question,answer\n${ROWS.join("\n")}\n`;

/** @type {{ baseUrl: string, stop: () => Promise<void> }} */
let platform;
/** @type {LLMPlatformClient} */
let client;
/** @type {string} */
let folder;
/** @type {string} */
let datasetId;
/** @type {import("@llm-platform/sdk").Job} */
let job;

/**
 * @param {string} dataset_id
 * @returns {import("@llm-platform/sdk").PipelineConfig}
 */
function training(dataset_id) {
  const template_mapping = { instruction: "camel_question", output: "answer" };
  return {
    nodes: [
      { agentName: "dataset", agentClass: "DatasetAgent", config: { dataset_id } },
      { agentName: "preprocessing", agentClass: "PreprocessingAgent", config: { base_model: "llm-platform/tiny-llama", template_mapping } },
      { agentName: "training", agentClass: "TrainingAgent", config: { max_steps: 2, batch_size: 4 } },
    ],
    edges: [
      { fromAgent: "dataset", toAgent: "preprocessing" },
      { fromAgent: "preprocessing", toAgent: "training" },
    ],
    globalConfig: { maxRetries: 1 },
  };
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "llm-platform-sdk-"));
  platform = await startPlatform();
  client = new LLMPlatformClient({ baseUrl: platform.baseUrl });
});

after(async () => {
  await platform?.stop();
  await rm(folder, { recursive: true, force: true });
});

test("health", async () => {
  const health = await client.health();
  assert.equal(health.services["api"], "healthy");
  assert.equal(health.status, "healthy");
  assert.deepEqual((await client.usage()).openJobs, { used: 0, limit: null });
  assert.ok((await client.notebooks.list()).items.some((notebook) => notebook.parameters.length > 0));
});

test("a path, a Blob, a File and a Buffer are uploaded whole, and progress is told", async () => {
  const path = join(folder, "training_data.csv");
  await writeFile(path, CSV);
  /** @type {[number, number][]} */
  const seen = [];
  const uploaded = await client.datasets.upload(path, { onProgress: (sent, total) => void seen.push([sent, total]) });
  datasetId = uploaded.datasetId;
  assert.equal(uploaded.filename, "training_data.csv");
  assert.equal(uploaded.sizeBytes, CSV.length);
  assert.deepEqual(uploaded.analysis.columns, ["camel_question", "answer"]);
  assert.match(uploaded.s3Path, /^s3:\/\//);
  assert.deepEqual(seen.at(-1), [CSV.length, CSV.length]);

  const others = [new Blob([CSV]), new File([CSV], 'my "own" data.csv'), Buffer.from(CSV), new TextEncoder().encode(CSV)];
  const names = [];
  for (const file of others) {
    const made = await client.datasets.upload(file, { format: "csv" });
    assert.equal(made.analysis.rows, ROWS.length);
    names.push(made.filename);
  }
  assert.deepEqual(names.slice(0, 2), ["dataset", names[1]]);
  assert.match(names[1] ?? "", /own.*data\.csv$/);
});

test("a large upload is sent piece by piece", async () => {
  const large = Buffer.from("text\n" + "a line of text\n".repeat(200_000));
  /** @type {number[]} */
  const seen = [];
  const made = await client.datasets.upload(large, { filename: "large.csv", onProgress: (sent) => void seen.push(sent) });
  assert.equal(made.analysis.rows, 200_000);
  assert.equal(seen.length, Math.ceil(large.length / 2 ** 18));
  assert.deepEqual(seen, seen.toSorted((a, b) => a - b));
});

test("datasets are listed, read, previewed and profiled, and their columns keep their names", async () => {
  assert.equal((await client.datasets.get(datasetId)).rows, ROWS.length);
  const preview = await client.datasets.preview(datasetId, { limit: 2 });
  assert.deepEqual(preview.samples[1], { camel_question: "What is 1 plus 1?", answer: 2 });
  const profile = await client.datasets.profile(datasetId);
  assert.deepEqual(profile.nulls, { camel_question: 0, answer: 0 });
  assert.equal(profile.analysis.stats?.minLength, profile.histogram[0]?.low);

  const page = await client.datasets.list({ limit: 2 });
  assert.equal(page.items.length, 2);
  assert.equal(page.hasMore, true);
  const ids = [];
  for await (const dataset of client.datasets.list({ limit: 2 })) ids.push(dataset.datasetId);
  assert.equal(ids.length, page.total);
  assert.equal(new Set(ids).size, page.total);
  assert.ok(ids.includes(datasetId));
});

test("what a pipeline would do", async () => {
  const found = await client.preflight({ pipelineConfig: training(datasetId), rows: [0] });
  assert.equal(found.ok, true);
  assert.equal(found.trainings[0]?.agentName, "training");
  assert.ok((found.nodes[0]?.tokens?.maskedShare ?? 0) > 0);
  const config = { base_model: "llm-platform/tiny-llama", template_mapping: { instruction: "camel_question", output: "answer" } };
  assert.equal((await client.preflight({ datasetId, config })).ok, true);
});

test("a job from its submission to its end, followed in both ways", { timeout: 120_000 }, async () => {
  job = await client.jobs.create({ pipelineConfig: training(datasetId) });
  assert.equal(job.jobId, `job_${job.runId}`);
  assert.equal(job.modelId, null);
  const again = await client.jobs.create({ pipelineConfig: { ...training(datasetId), runId: job.runId } });
  assert.equal(again.createdAt, job.createdAt);

  /** @type {string[]} */
  const messages = [];
  const stream = client.logs.stream(job.runId);
  const finished = new Promise((resolve, reject) => {
    stream.onmessage = (event) => void messages.push(JSON.parse(event.data).message);
    stream.onend = resolve;
    stream.onerror = reject;
  });
  const channel = client.runs.channel(job.runId);
  const cursor = await channel.comment("watched by a test");
  assert.equal(cursor.split(":")[0], job.runId);
  await assert.rejects(channel.comment(" "), InvalidInput);
  /** @type {import("@llm-platform/sdk").LogLine[]} */
  const lines = [];
  const reading = (async () => {
    const found = [];
    for await (const message of channel) if (message.type === "log") found.push(message.log.message);
    return found;
  })();
  for await (const line of client.logs.stream(job.runId)) lines.push(line);
  const channelled = await reading;
  assert.equal(await finished, "completed");
  assert.deepEqual(channelled, messages);
  /** @type {string[]} */
  const looks = [];
  await job.wait({ timeout: 10_000, onProgress: (look) => void looks.push(look.status) });
  assert.deepEqual(looks, ["completed"]);
  assert.deepEqual(messages, lines.map((line) => line.message));
  const metric = lines.find((line) => line.level === "METRIC" && "loss" in line);
  assert.equal(metric?.agentName, "training");
  assert.equal(typeof metric?.["loss"], "number");
  const figures = [];
  for await (const line of client.logs.stream(job.runId, { level: ["METRIC"], agent: ["training"] })) figures.push(line);
  assert.deepEqual(figures, lines.filter((line) => line.level === "METRIC"));
  assert.equal((await client.logs.history(job.runId, { level: ["METRIC"], limit: 1 })).total, figures.length);
  assert.ok(lines.some((line) => line["author"] === null && line.message === "watched by a test"));

  assert.deepEqual(job.progress?.completedAgents, ["dataset", "preprocessing", "training"]);
  const nodes = job.nodes?.map(({ agentName, status, attempts }) => [agentName, status, attempts]);
  assert.deepEqual(nodes, ["dataset", "preprocessing", "training"].map((name) => [name, "completed", 1]));
  assert.ok(job.nodes?.every((node) => (node.startedAt ?? "") < (node.endedAt ?? "")));
  assert.equal(job.error, null);
  assert.equal(job.modelId, `model_${job.runId}`);

  const first = await client.logs.history(job.runId, { limit: 3 });
  assert.equal(first.logs[0]?.runId, job.runId);
  const rest = await client.logs.history(job.runId, { limit: 1000, after: first.nextCursor ?? "" });
  assert.deepEqual([...first.logs, ...rest.logs], lines);
  const created = new Date(job.createdAt);
  assert.ok((await client.jobs.list({ status: "completed", createdAfter: created })).items.some((item) => item.jobId === job.jobId));
  assert.ok(!(await client.jobs.list({ createdBefore: created })).items.some((item) => item.jobId === job.jobId));
  await assert.rejects(job.cancel(), Conflict);
});

test("the model, its card and its files", async () => {
  const model = await client.models.get(job.modelId);
  assert.equal(model.datasetId, datasetId);
  assert.equal(model.trainingConfig["max_steps"], 2);
  assert.equal(typeof model.metrics["final_loss"], "number");
  assert.match(await model.card(), /^# /m);
  const listed = [];
  for await (const item of client.models.list({ baseModel: model.baseModel })) listed.push(item.modelId);
  assert.deepEqual(listed, [job.modelId]);
  const loss = Number(model.metrics["final_loss"]);
  assert.equal((await client.models.list({ name: model.modelName, minMetric: { final_loss: loss }, sort: "-final_loss" })).total, 1);
  assert.equal((await client.models.list({ maxMetric: { final_loss: loss - 1 } })).total, 0);
  assert.equal((await client.models.list({ alias: "nobody" })).total, 0);
  const files = await client.models.files(model.modelId);
  assert.ok(files.files.some((file) => file.path === "adapter_model.safetensors" && file.sha256));

  const saved = await model.download({ format: "adapter", path: join(folder, "models/") });
  const { filename, sizeBytes, stream } = await client.models.stream(model.modelId, { format: "adapter" });
  const parts = [];
  for await (const chunk of stream) parts.push(chunk);
  assert.equal(saved, join(folder, "models", filename));
  const bytes = Buffer.concat(parts);
  assert.ok(bytes.equals(await readFile(saved)));
  assert.equal(bytes.length, sizeBytes);
  assert.ok(bytes.includes("adapter_model.safetensors"));
  assert.deepEqual(await readdir(join(folder, "models")), [filename]);
  await assert.rejects(client.models.stream(model.modelId, { format: "gguf" }), NotFound);
  await assert.rejects(client.models.compare([model.modelId, "model_nothing"]), NotFound);
});

test("a job is cancelled, and tried again", async () => {
  const cancelled = await client.jobs.create(training(datasetId));
  assert.equal((await client.jobs.cancel(cancelled)).status, "cancelled");
  await client.jobs.wait(cancelled, { timeout: 60_000 });
  assert.equal(cancelled.status, "cancelled");
  await assert.rejects(client.models.get(cancelled.modelId), NotFound);
  const again = await client.jobs.retry(cancelled);
  assert.deepEqual([again.jobId, again.status], [cancelled.jobId, "pending"]);
  await again.cancel();
  await assert.rejects(client.jobs.retry(job), Conflict);
  await client.jobs.wait(again, { timeout: 60_000 });
  assert.deepEqual((await client.jobs.deleteArtifacts(again)).models, []);
  assert.equal((await client.notebooks.ofJob(again.jobId)).total, 0);
  await assert.rejects(client.notebooks.stream(again.jobId, "report"), NotFound);
});

test("keys, and what was done", async () => {
  const begun = new Date();
  const made = await client.keys.create("alice", { scope: "read", expiresInDays: 7 });
  assert.match(made.key, /^llmp_/);
  const listed = (await client.keys.list()).items[0];
  assert.deepEqual([listed?.keyId, listed?.scope, listed?.revokedAt], [made.keyId, "read", null]);
  assert.ok((await client.keys.revoke(made.keyId)).revokedAt);
  const done = [];
  for await (const entry of client.audit.list({ limit: 1, since: begun })) done.push([entry.action, entry.target]);
  assert.deepEqual(done, [["key.revoke", made.keyId], ["key.create", made.keyId]]);
  const submitted = await client.audit.list({ action: "job.submit" });
  assert.ok(submitted.items.some((entry) => entry.target === job.jobId && entry.requestId));
  assert.equal((await client.audit.list({ actor: "nobody" })).total, 0);
});

test("mistakes come back as errors with all that was found", async () => {
  const node = { agentName: "dataset", agentClass: "DatasetAgent", config: {} };
  await assert.rejects(client.jobs.create({ nodes: [node], edges: [] }), (error) => {
    assert.ok(error instanceof InvalidInput);
    assert.deepEqual(error.metadata["errors"], [{ field: "file_path", agent: "dataset", message: "field required" }]);
    assert.equal(error.code, "VALIDATION_ERROR");
    assert.match(error.requestId ?? "", /\w/);
    return true;
  });
  await assert.rejects(client.jobs.create({ nodes: [], edges: [] }), InvalidConfig);
  await assert.rejects(client.jobs.create({ ...training(datasetId), runId: job.runId, globalConfig: { maxRetries: 7 } }), Conflict);
  await assert.rejects(client.datasets.upload(Buffer.from(CSV), { format: "parquet" }), DatasetError);
  await assert.rejects(client.datasets.get("ds_nothing"), NotFound);
  await assert.rejects(client.models.get("model_nothing"), NotFound);
  await assert.rejects(async () => {
    for await (const line of client.logs.stream("nothing")) assert.fail(line.message);
  }, NotFound);
  await assert.rejects(async () => {
    for await (const message of client.runs.channel("nothing")) assert.fail(message.type);
  }, NotFound);
  await assert.rejects(client.datasets.upload(join(folder, "missing.csv")), { code: "ENOENT" });
});

test("the example of the specification, to the letter", async () => {
  const example = await readFile(join(HERE, "example.txt"), "utf8");
  const specification = join(HERE, "../../../../shared/spec/api-specification.md");
  if (existsSync(specification)) assert.ok((await readFile(specification, "utf8")).includes(example));
  // What the example leaves open: where the platform is, the file, the pipeline.
  const pipeline = "{ nodes: [{ agentName: 'dataset', agentClass: 'DatasetAgent', config: { dataset_id: dataset.datasetId } }] }";
  const program = example.replace("http://localhost:8000/api/v1", platform.baseUrl).replace("{ ... }", pipeline);
  const path = join(HERE, `../dist/example-${process.pid}.mjs`); // below the package, which can so import itself by its name
  await writeFile(path, `const file = new File([${JSON.stringify(CSV)}], "training_data.csv");\n${program}`);
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [path]);
    assert.match(stdout, /^\[INFO\] .*\b40 rows/m);
  } finally {
    await rm(path);
  }
});
