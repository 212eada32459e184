/**
 * The LLM platform's REST API in JavaScript.
 *
 *     const client = new LLMPlatformClient({ baseUrl: "http://localhost:8000/api/v1" });
 *     const dataset = await client.datasets.upload("training_data.csv");
 *     const job = await client.jobs.create({ nodes: [...], edges: [...] });
 *     for await (const log of client.logs.stream(job.runId)) console.log(log.level, log.message);
 */

export { LLMPlatformClient, type ClientOptions } from "./client.js";
export type { Datasets, UploadOptions } from "./datasets.js";
export * from "./errors.js";
export { type CancelOptions, Job, type Jobs, type WaitOptions } from "./jobs.js";
export { LogEvent, LogStream, type Logs, type StreamOptions } from "./logs.js";
export { Model, type Download, type DownloadOptions, type ExportFormat, type Models } from "./models.js";
export { Listing, type Page } from "./pages.js";
export type * from "./types.js";
