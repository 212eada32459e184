/** `client.models`: what was trained, its card, and its files. */

import { NotFound, ServiceUnavailable } from "./errors.js";
import { writeFile } from "./files.js";
import type { components } from "./openapi.js";
import { Listing } from "./pages.js";
import { streamOf } from "./streams.js";
import { pause, sleep } from "./time.js";
import type { Opened, Transport } from "./transport.js";
import type { CallOptions, Comparison, ListOptions, ModelDetails, ModelFiles, ModelSummary } from "./types.js";

type Schemas = components["schemas"];

/** Connections in a row that may break off without a byte before a download gives up. */
const FRUITLESS = 5;

export type ExportFormat = "adapter" | "merged" | "gguf";

export interface DownloadOptions extends CallOptions {
  /** "adapter" if not given. */
  format?: ExportFormat;
}

export interface ModelListOptions extends ListOptions {
  baseModel?: string;
  /** Only versions of the registered model of this name. */
  name?: string;
  /** Only models with this alias in MLflow, such as champion. */
  alias?: string;
  /** Only models whose figures are at least (at most) these: `{ exact_match: 0.8 }`. */
  minMetric?: Record<string, number>;
  maxMetric?: Record<string, number>;
  /** `created_at`, `name` or a figure; with `-` before it from high to low, or newest first. */
  sort?: string;
}

/** An export on its way. */
export interface Download {
  /** The platform's name for the file, without folders. */
  filename: string;
  sizeBytes: number | null;
  stream: ReadableStream<Uint8Array>;
}

/** A trained model, with the calls that concern it. */
export class Model {
  modelId!: string;
  runId!: string;
  modelName!: string;
  baseModel!: string;
  datasetId!: string | null;
  trainingConfig!: ModelDetails["trainingConfig"];
  metrics!: ModelDetails["metrics"];
  exports!: ModelDetails["exports"];
  createdAt!: string;
  readonly #models: Models;

  constructor(models: Models, details: ModelDetails) {
    this.#models = models;
    Object.assign(this, details);
  }

  /** See `Models.download`. */
  download(options: DownloadOptions & { path: string }): Promise<string> {
    return this.#models.download(this.modelId, options);
  }

  /** See `Models.card`. */
  card(options: CallOptions = {}): Promise<string> {
    return this.#models.card(this.modelId, options);
  }
}

export class Models {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Newest first, if `sort` does not say otherwise. */
  list({ limit = 20, offset = 0, baseModel, minMetric, maxMetric, name, alias, sort, signal }: ModelListOptions = {}): Listing<ModelSummary> {
    const filters = { base_model: baseModel, min_metric: thresholds(minMetric), max_metric: thresholds(maxMetric), name, alias, sort };
    return new Listing(offset, async (from) => {
      const query = { limit, offset: from, ...filters };
      const { models, ...page } = await this.#transport.json<Schemas["ModelList"]>({ path: "/models", query, signal });
      return { ...page, items: models };
    });
  }

  /** One model. `null`, which is the `modelId` of a job that registered no model, throws NotFound. */
  async get(modelId: string | null, { signal }: CallOptions = {}): Promise<Model> {
    return new Model(this, await this.#transport.json<Schemas["Model"]>({ path: path(modelId), signal }));
  }

  /**
   * Models on the examples that all of them were evaluated on, each against the first. Throws InvalidConfig if one of
   * them was not evaluated, or on other examples.
   */
  compare(modelIds: readonly string[], { signal }: CallOptions = {}): Promise<Comparison> {
    return this.#transport.json<Schemas["Comparison"]>({ path: "/models/compare", query: { ids: modelIds.join(",") }, signal });
  }

  /** The model card, as Markdown. */
  async card(modelId: string, { signal }: CallOptions = {}): Promise<string> {
    return this.#transport.text({ path: `${path(modelId)}/card`, signal });
  }

  /** The files of an export, each with its digest and, where the platform stores in an S3, a `url` to fetch it from directly. */
  files(modelId: string, { format = "adapter", signal }: DownloadOptions = {}): Promise<ModelFiles> {
    return this.#transport.json<Schemas["ModelFiles"]>({ path: `${path(modelId)}/files`, query: { format }, signal });
  }

  /**
   * Writes an export, a tar archive, to the file `path`, or into the folder `path` under the platform's name for it, and
   * returns where it lies. Nothing appears there before the download is complete.
   */
  async download(modelId: string, { path, ...options }: DownloadOptions & { path: string }): Promise<string> {
    const { filename, stream } = await this.stream(modelId, options);
    return writeFile(path, filename, stream);
  }

  /** An export as a stream of bytes. A connection that breaks off is taken up again behind the last byte. */
  async stream(modelId: string, { format = "adapter", signal }: DownloadOptions = {}): Promise<Download> {
    const call = { path: `${path(modelId)}/download`, query: { format }, signal };
    const opened = await this.#transport.open(call);
    const { headers } = opened.response;
    const etag = headers.get("etag");
    const rest = async (from: number): Promise<Opened> => {
      if (etag === null) throw new ServiceUnavailable("The download broke off and cannot be resumed");
      // Without If-Range an export that was made anew meanwhile would be spliced to what is there already.
      const part = await this.#transport.open({ ...call, headers: { Range: `bytes=${from}-`, "If-Range": etag } });
      if (part.response.status === 206) return part;
      part.close();
      throw new ServiceUnavailable("The download broke off, and the export has changed since");
    };
    const stream = streamOf(resumed(opened, rest, signal));
    const length = headers.get("content-length");
    return { filename: fileName(headers) ?? `${format}.tar`, sizeBytes: length === null ? null : Number(length), stream };
  }
}

async function* resumed(opened: Opened, rest: (from: number) => Promise<Opened>, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  let received = 0;
  for (let fruitless = 0; ; fruitless++) {
    try {
      for await (const chunk of opened.chunks) {
        received += chunk.byteLength;
        fruitless = 0;
        yield chunk;
      }
      return;
    } catch (error) {
      if (!(error instanceof ServiceUnavailable) || fruitless === FRUITLESS) throw error;
    }
    await sleep(pause(fruitless), signal);
    opened = await rest(received);
  }
}

function thresholds(figures: Record<string, number> = {}): string[] {
  return Object.entries(figures).map(([name, value]) => `${name}:${value}`);
}

function path(modelId: string | null): string {
  if (modelId === null) throw new NotFound("There is no model id: the job has registered no model (yet)");
  return `/models/${encodeURIComponent(modelId)}`;
}

/** The last part of the name in Content-Disposition: the platform does not choose folders on this machine. */
function fileName(headers: Headers): string | null {
  const name = /(?:^|;)\s*filename="?([^";]+)"?/i.exec(headers.get("content-disposition") ?? "")?.[1]?.split(/[\\/]/).pop();
  return name && name !== "." && name !== ".." ? name : null;
}
