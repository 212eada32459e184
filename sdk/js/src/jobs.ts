/** `client.jobs`: submit pipelines, follow them, cancel them, try them again. */

import { snakeize } from "./casing.js";
import { fromBody, type PlatformError } from "./errors.js";
import type { components } from "./openapi.js";
import { Listing } from "./pages.js";
import { sleep } from "./time.js";
import type { Transport } from "./transport.js";
import type { ArtifactsDeleted, CallOptions, JobCancelled, JobCreated, JobDetails, JobNode, JobRequest, JobResult, JobStatus, ListOptions, Progress } from "./types.js";

type Schemas = components["schemas"];

const FINAL: readonly JobStatus[] = ["completed", "failed", "cancelled"];
const FIRST_POLL = 500;
/** A waiting client asks every few seconds: far below any rate limit, and soon enough for a person. */
const SLOWEST_POLL = 5_000;

export interface WaitOptions extends CallOptions {
  /** Milliseconds after which a DOMException named `TimeoutError` is thrown; the job goes on. */
  timeout?: number;
  /** Called with every new look at the job. */
  onProgress?: (job: Job) => void;
}

export interface JobListOptions extends ListOptions {
  status?: JobStatus;
  createdAfter?: Date;
  createdBefore?: Date;
}

export interface CancelOptions extends CallOptions {
  /** Stop and keep: a training that runs leaves a model of what it has learned so far; `keeps` of the answer names its node. */
  keep?: boolean;
}

/** A job as it was when the platform was last asked; `refresh()` asks again. */
export class Job {
  jobId!: string;
  runId!: string;
  status!: JobStatus;
  createdAt!: string;
  /** The (first) model that the job trained. This and what follows is null until there is one, and after `create` until `refresh()`. */
  modelId: string | null = null;
  startedAt: string | null = null;
  endedAt: string | null = null;
  progress: Progress | null = null;
  /** Each node of the pipeline: its status, how often it was started, and when. */
  nodes: JobNode[] | null = null;
  result: JobResult | null = null;
  readonly #jobs: Jobs;

  constructor(jobs: Jobs, seen: JobCreated | JobDetails) {
    this.#jobs = jobs;
    Object.assign(this, seen);
  }

  /** Whether the job has come to an end, good or bad. */
  get done(): boolean {
    return FINAL.includes(this.status);
  }

  /** Why the job failed, as an error to throw or to read. */
  get error(): PlatformError | null {
    return this.result?.error ? fromBody(this.result.error) : null;
  }

  /** Asks the platform how the job is now, and returns the same object. */
  async refresh(options: CallOptions = {}): Promise<this> {
    return Object.assign(this, await this.#jobs.get(this.jobId, options));
  }

  /** See `Jobs.wait`. */
  async wait(options: WaitOptions = {}): Promise<this> {
    await this.#jobs.wait(this, options);
    return this;
  }

  /** See `Jobs.cancel`. */
  cancel(options: CancelOptions = {}): Promise<JobCancelled> {
    return this.#jobs.cancel(this, options);
  }
}

export class Jobs {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Submits a pipeline: `{ pipelineConfig }`, or what is inside it.
   *
   * Without a `runId` one is made here, so that a submission whose answer was lost can be repeated and stays one job.
   */
  async create(request: JobRequest, { signal }: CallOptions = {}): Promise<Job> {
    const given = snakeize(request) as { pipeline_config?: unknown };
    const body = "pipeline_config" in given ? given : { pipeline_config: given };
    if (typeof body.pipeline_config === "object" && body.pipeline_config !== null) {
      const inner = body.pipeline_config as { run_id?: string | null };
      body.pipeline_config = { ...inner, run_id: inner.run_id || newRunId() };
    }
    return new Job(this, await this.#transport.json<Schemas["JobCreated"]>({ method: "POST", path: "/jobs", json: body, repeat: true, signal }));
  }

  async get(jobId: string, { signal }: CallOptions = {}): Promise<Job> {
    return new Job(this, await this.#transport.json<Schemas["Job"]>({ path: path(jobId), signal }));
  }

  /** Newest first; of jobs created at `createdAfter` or later, and before `createdBefore`. */
  list({ limit = 20, offset = 0, status, createdAfter, createdBefore, signal }: JobListOptions = {}): Listing<Job> {
    const times = { created_after: createdAfter?.toISOString(), created_before: createdBefore?.toISOString() };
    return new Listing(offset, async (from) => {
      const page = await this.#transport.json<Schemas["Page_Job_"]>({ path: "/jobs", query: { limit, offset: from, status, ...times }, signal });
      return { ...page, items: page.items.map((item) => new Job(this, item)) };
    });
  }

  /** Asks a job to stop. Throws Conflict when it had already completed or failed. */
  async cancel(job: Job | string, { keep = false, signal }: CancelOptions = {}): Promise<JobCancelled> {
    const query = keep ? { keep: "true" } : {};
    return this.#transport.json<Schemas["JobCancelled"]>({ method: "DELETE", path: path(idOf(job)), query, repeat: true, signal });
  }

  /** Tries a failed or cancelled job again; nodes that had finished are reused. Throws Conflict for any other job. */
  async retry(job: Job | string, { signal }: CallOptions = {}): Promise<Job> {
    return new Job(this, await this.#transport.json<Schemas["JobCreated"]>({ method: "POST", path: `${path(idOf(job))}/retry`, signal }));
  }

  /** Deletes what an ended job left in the object store, with `models` also what it trained. What others need stays, and is named. */
  async deleteArtifacts(job: Job | string, { models = false, signal }: CallOptions & { models?: boolean } = {}): Promise<ArtifactsDeleted> {
    const query = models ? { models: "true" } : {};
    const call = { method: "DELETE", path: `${path(idOf(job))}/artifacts`, query, repeat: true, signal } as const;
    return this.#transport.json<Schemas["ArtifactsDeleted"]>(call);
  }

  /** The job when it has ended, whichever way: look at its `status` and `error`. */
  async wait(job: Job | string, { timeout, onProgress, signal }: WaitOptions = {}): Promise<Job> {
    const started = performance.now();
    const watched = job instanceof Job ? await job.refresh({ signal }) : await this.get(job, { signal });
    for (let pause = FIRST_POLL; ; pause = Math.min(SLOWEST_POLL, pause * 1.5)) {
      onProgress?.(watched);
      if (watched.done) return watched;
      const left = timeout === undefined ? Infinity : timeout - (performance.now() - started);
      if (left <= 0) throw new DOMException(`${watched.jobId} is still ${watched.status} after ${timeout} ms`, "TimeoutError");
      await sleep(Math.min(pause, left), signal);
      await watched.refresh({ signal });
    }
  }
}

function idOf(job: Job | string): string {
  return job instanceof Job ? job.jobId : job;
}

function path(jobId: string): string {
  return `/jobs/${encodeURIComponent(jobId)}`;
}

function newRunId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
