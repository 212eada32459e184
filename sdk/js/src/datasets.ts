/** `client.datasets`: upload files and look at what is there. */

import { fileAt, hasFiles } from "./files.js";
import type { components } from "./openapi.js";
import { Listing } from "./pages.js";
import { streamOf } from "./streams.js";
import type { Transport } from "./transport.js";
import type { CallOptions, Dataset, DatasetUploaded, Format, ListOptions, Preview, Profile } from "./types.js";

type Schemas = components["schemas"];

/** Bytes that are sent between two reports: a Blob in memory comes as one chunk. */
const PIECE = 2 ** 18;

export interface UploadOptions extends CallOptions {
  /** Seen from the content if not given. */
  format?: Format;
  /** The dataset's name; that of the file if not given. */
  filename?: string;
  /** In bytes. Browsers do not tell how far a request is: there it is called once, at the end. */
  onProgress?: (sent: number, total: number) => void;
}

interface Source {
  name: string;
  size: number;
  open: () => AsyncIterable<Uint8Array>;
}

export class Datasets {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Sends a dataset (CSV, JSON, JSONL, Parquet, TXT, each also gzip), piece by piece: a path where there are files, a
   * Blob or File, or bytes (a Buffer is such).
   */
  async upload(file: string | Blob | Uint8Array | ArrayBuffer, options: UploadOptions = {}): Promise<DatasetUploaded> {
    const { format, filename, onProgress, signal } = options;
    // One dataset, also when the answer was lost and the file is sent again.
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    const call = { method: "POST", path: "/datasets/upload", headers, repeat: true, signal } as const;
    if (hasFiles) {
      const source = typeof file === "string" ? await fileAt(file) : sourceOf(blobOf(file));
      const name = filename ?? source.name;
      const body = (heard: () => void): ReturnType<typeof multipart> => {
        return multipart({ ...source, name }, format, (sent) => {
          heard();
          onProgress?.(sent, source.size);
        });
      };
      return this.#transport.json<Schemas["DatasetUploaded"]>({ ...call, body });
    }
    if (typeof file === "string") throw new TypeError("There are no file paths here: give a Blob");
    const blob = blobOf(file);
    const form = new FormData();
    if (format !== undefined) form.append("format", format);
    form.append("file", blob, filename ?? sourceOf(blob).name);
    const made = await this.#transport.json<Schemas["DatasetUploaded"]>({ ...call, body: () => ({ body: form }) });
    onProgress?.(blob.size, blob.size);
    return made;
  }

  get(datasetId: string, { signal }: CallOptions = {}): Promise<Dataset> {
    return this.#transport.json<Schemas["Dataset"]>({ path: path(datasetId), signal });
  }

  /** The first rows, at most 100, under the dataset's own column names. */
  preview(datasetId: string, { limit = 10, signal }: CallOptions & { limit?: number } = {}): Promise<Preview> {
    return this.#transport.json<Schemas["Preview"]>({ path: `${path(datasetId)}/preview`, query: { limit }, signal });
  }

  /** Layout, lengths, empty cells, duplicates, languages, examples; lengths in tokens too if `tokenizer` names a base model. */
  profile(datasetId: string, { tokenizer, signal }: CallOptions & { tokenizer?: string } = {}): Promise<Profile> {
    return this.#transport.json<Schemas["Profile"]>({ path: `${path(datasetId)}/profile`, query: { tokenizer }, signal });
  }

  /** Newest first. */
  list({ limit = 20, offset = 0, signal }: ListOptions = {}): Listing<Dataset> {
    return new Listing(offset, (from) =>
      this.#transport.json<Schemas["Page_Dataset_"]>({ path: "/datasets", query: { limit, offset: from }, signal }),
    );
  }
}

function path(datasetId: string): string {
  return `/datasets/${encodeURIComponent(datasetId)}`;
}

function blobOf(file: string | Blob | Uint8Array | ArrayBuffer): Blob {
  return file instanceof Blob ? file : new Blob([file as BlobPart]);
}

function sourceOf(blob: Blob): Source {
  const name = blob instanceof File ? blob.name : "dataset";
  return { name, size: blob.size, open: () => blob.stream() };
}

/** A form that is written while it is sent; `fetch` tells of a FormData not how far it is. */
function multipart(file: Source, format: Format | undefined, onSent: (bytes: number) => void): { body: ReadableStream; headers: Record<string, string> } {
  const boundary = `form-${crypto.randomUUID()}`;
  const text = new TextEncoder();
  const field = format === undefined ? "" : `--${boundary}\r\nContent-Disposition: form-data; name="format"\r\n\r\n${format}\r\n`;
  const name = file.name.replace(/["\r\n]/g, encodeURIComponent);
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\nContent-Type: application/octet-stream\r\n\r\n`;

  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    yield text.encode(field + head);
    let sent = 0;
    for await (const chunk of file.open()) {
      for (let at = 0; at < chunk.byteLength; at += PIECE) {
        const piece = chunk.subarray(at, at + PIECE);
        yield piece;
        sent += piece.byteLength; // the next piece is asked for, so this one is on its way
        onSent(sent);
      }
    }
    yield text.encode(`\r\n--${boundary}--\r\n`);
  };
  return { body: streamOf(pieces()), headers: { "Content-Type": `multipart/form-data; boundary=${boundary}` } };
}
