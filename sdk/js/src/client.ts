import { snakeize } from "./casing.js";
import { Runs } from "./channel.js";
import { Datasets } from "./datasets.js";
import { Jobs } from "./jobs.js";
import { Audit, Keys } from "./keys.js";
import { Logs } from "./logs.js";
import { Models } from "./models.js";
import { Notebooks } from "./notebooks.js";
import type { components } from "./openapi.js";
import { Transport } from "./transport.js";
import type { CallOptions, Health, Preflight, PreflightRequest, Usage } from "./types.js";

export interface ClientOptions {
  /** `http://localhost:8000/api/v1` if not given. */
  baseUrl?: string;
  /** Says who you are to a platform that asks; LLM_PLATFORM_API_KEY of the environment, where there is one, if not given. */
  apiKey?: string;
  /** Milliseconds that the platform may take to answer, or be silent during an upload or a download; 60,000 if not given. */
  timeout?: number;
  /** How often a call that can be repeated safely is tried again, with growing pauses; 5 if not given. */
  maxRetries?: number;
}

/** Browsers have none. */
const environment = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env ?? {};

/** A platform at `baseUrl`, with the resources of its API as properties. */
export class LLMPlatformClient {
  readonly audit: Audit;
  readonly datasets: Datasets;
  readonly jobs: Jobs;
  readonly keys: Keys;
  readonly logs: Logs;
  readonly models: Models;
  readonly notebooks: Notebooks;
  readonly runs: Runs;
  readonly #transport: Transport;

  constructor({ baseUrl = "http://localhost:8000/api/v1", apiKey, timeout = 60_000, maxRetries = 5 }: ClientOptions = {}) {
    this.#transport = new Transport({ baseUrl, apiKey: apiKey || environment["LLM_PLATFORM_API_KEY"] || undefined, timeout, maxRetries });
    this.audit = new Audit(this.#transport);
    this.datasets = new Datasets(this.#transport);
    this.jobs = new Jobs(this.#transport);
    this.keys = new Keys(this.#transport);
    this.logs = new Logs(this.#transport);
    this.models = new Models(this.#transport);
    this.notebooks = new Notebooks(this.#transport);
    this.runs = new Runs(this.#transport);
  }

  get baseUrl(): string {
    return this.#transport.baseUrl;
  }

  /** How the platform and its services are. An unhealthy platform is an answer, not an error. */
  health({ signal }: CallOptions = {}): Promise<Health> {
    return this.#transport.json<components["schemas"]["Health"]>({ path: "/health", accept: [503], signal });
  }

  /** How much of each quota you have used; a `limit` of null is none. */
  usage({ signal }: CallOptions = {}): Promise<Usage> {
    return this.#transport.json<components["schemas"]["Usage"]>({ path: "/usage", signal });
  }

  /**
   * What a pipeline, or a dataset with a preprocessing config, would do: counts, tokens, loss masks, steps, time, memory.
   *
   * Throws what submitting the same would throw; what is wrong with the rows is in the answer's `errors`.
   */
  preflight(request: PreflightRequest, { signal }: CallOptions = {}): Promise<Preflight> {
    // It changes nothing, so it may be repeated.
    const call = { method: "POST", path: "/preflight", json: snakeize(request), repeat: true, signal } as const;
    return this.#transport.json<components["schemas"]["Preflight"]>(call);
  }
}
