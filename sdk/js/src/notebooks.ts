/** `client.notebooks`: which notebooks may run, what ran in a job, and its files. */

import { writeFile } from "./files.js";
import type { components } from "./openapi.js";
import { Listing } from "./pages.js";
import { streamOf } from "./streams.js";
import type { Transport } from "./transport.js";
import type { CallOptions, JobNotebook, ListOptions, Notebook } from "./types.js";

type Schemas = components["schemas"];

export interface NotebookOptions extends CallOptions {
  /** "html", a page to read, if not given; "ipynb" opens in Jupyter. */
  format?: "html" | "ipynb";
}

export class Notebooks {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The notebooks that a NotebookAgent may run, by name, with their parameters. */
  list({ limit = 20, offset = 0, signal }: ListOptions = {}): Listing<Notebook> {
    return new Listing(offset, (from) =>
      this.#transport.json<Schemas["Page_Notebook_"]>({ path: "/notebooks", query: { limit, offset: from }, signal }),
    );
  }

  /** The notebooks of a job, by its id or its run id, that have started. */
  ofJob(jobId: string, { limit = 20, offset = 0, signal }: ListOptions = {}): Listing<JobNotebook> {
    return new Listing(offset, (from) =>
      this.#transport.json<Schemas["Page_JobNotebook_"]>({ path: path(jobId), query: { limit, offset: from }, signal }),
    );
  }

  /** Writes the notebook of a job's node, as it ran, to the file `path`, or into the folder `path`; returns where it lies. */
  async download(jobId: string, agentName: string, { path: target, ...options }: NotebookOptions & { path: string }): Promise<string> {
    const name = `${jobId.replace(/^job_/, "")}-${agentName}.${options.format ?? "html"}`;
    return writeFile(target, name, await this.stream(jobId, agentName, options));
  }

  /** The same as a stream of bytes. */
  async stream(jobId: string, agentName: string, { format = "html", signal }: NotebookOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const { chunks } = await this.#transport.open({ path: `${path(jobId)}/${encodeURIComponent(agentName)}`, query: { format }, signal });
    return streamOf(chunks);
  }
}

function path(jobId: string): string {
  return `/jobs/${encodeURIComponent(jobId)}/notebooks`;
}
