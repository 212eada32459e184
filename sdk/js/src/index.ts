/**
 * The LLM platform's REST API in JavaScript.
 *
 *     const client = new LLMPlatformClient({ baseUrl: "http://localhost:8000/api/v1" });
 *     const dataset = await client.datasets.upload("training_data.csv");
 *     const job = await client.jobs.create({ nodes: [...], edges: [...] });
 *     for await (const log of client.logs.stream(job.runId)) console.log(log.level, log.message);
 */

export { RunChannel, type ChannelMessage, type ChannelOptions, type PresenceMessage, type Present, type Runs } from "./channel.js";
export { LLMPlatformClient, type ClientOptions } from "./client.js";
export type { Datasets, UploadOptions } from "./datasets.js";
export * from "./errors.js";
export { type CancelOptions, Job, type JobListOptions, type Jobs, type WaitOptions } from "./jobs.js";
export type { Audit, AuditOptions, KeyOptions, Keys } from "./keys.js";
export { LogEvent, LogStream, type LineFilter, type Logs, type StreamOptions } from "./logs.js";
export { Model, type Download, type DownloadOptions, type ExportFormat, type ModelListOptions, type Models } from "./models.js";
export type { NotebookOptions, Notebooks } from "./notebooks.js";
export { Listing, type Page } from "./pages.js";
export type * from "./types.js";
