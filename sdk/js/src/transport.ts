/** HTTP for the SDK: repeated attempts where they are safe, and answers turned into results or errors. */

import { camelize, type Camel } from "./casing.js";
import { fromBody, fromStatus, ServiceUnavailable, type PlatformError } from "./errors.js";
import { pause, Silence, sleep } from "./time.js";

const LONGEST_RETRY_AFTER = 60_000;

/** Codes of connections that never came to be and so carried nothing. */
const NOT_CONNECTED = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"]);

export interface TransportOptions {
  baseUrl: string;
  apiKey: string | undefined;
  timeout: number;
  maxRetries: number;
}

export interface Call {
  method?: "GET" | "POST" | "DELETE";
  path: string;
  /** A list is sent as the name again and again. */
  query?: Record<string, string | number | readonly string[] | undefined>;
  headers?: Record<string, string>;
  json?: unknown;
  /** Makes the body of one attempt, which tells by `heard` that it gets on. */
  body?: (heard: () => void) => { body: BodyInit; headers?: Record<string, string> };
  /** Whether the call may reach the platform twice; by default a GET may. */
  repeat?: boolean;
  /** Statuses beside 2xx that are an answer. */
  accept?: readonly number[];
  signal?: AbortSignal | undefined;
  /** Milliseconds that the platform may be silent; the client's if not given. */
  timeout?: number;
}

/** A body that is read piece by piece, or given up by `close`. */
export interface Opened {
  response: Response;
  chunks: AsyncGenerator<Uint8Array>;
  close: () => void;
}

export class Transport {
  readonly baseUrl: string;
  readonly #options: TransportOptions;

  constructor(options: TransportOptions) {
    this.baseUrl = new URL(options.baseUrl).href.replace(/\/+$/, "");
    this.#options = options;
  }

  /** A WebSocket at `path`; the key goes as a subprotocol, since a browser can set no header. Throws TypeError where there are none. */
  socket(path: string, query: Record<string, string>): WebSocket {
    if (typeof WebSocket === "undefined") {
      throw new TypeError("There are no WebSockets here: take Node 22 or newer, or start Node 20 with --experimental-websocket");
    }
    const url = new URL(this.baseUrl.replace(/^http/, "ws") + path);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const { apiKey } = this.#options;
    return new WebSocket(url, ["llm-platform", ...(apiKey === undefined ? [] : [`bearer.${apiKey}`])]);
  }

  /** The answer in camelCase. `T` is its type in the API. */
  async json<T>(call: Call): Promise<Camel<T>> {
    return camelize((await this.raw(call)) as T);
  }

  /** The answer as the platform sent it. */
  async raw(call: Call): Promise<unknown> {
    return JSON.parse(await this.text(call));
  }

  async text(call: Call): Promise<string> {
    return this.#attempts(call, async (response, silence) => {
      const text = await response.text();
      silence.end();
      return text;
    });
  }

  /** Tried again as long as the answer has not begun. */
  async open(call: Call): Promise<Opened> {
    return this.#attempts(call, async (response, silence) => this.#opened(response, silence));
  }

  /** One attempt, for callers that decide themselves what to do about a lost connection. Throws `ServiceUnavailable` then. */
  async openOnce(call: Call): Promise<Opened> {
    const silence = new Silence(call.timeout ?? this.#options.timeout, call.signal);
    const request = this.#request(call, silence);
    try {
      const response = await request.send();
      if (!response.ok) throw await errorOf(response, call);
      return this.#opened(response, silence);
    } catch (error) {
      silence.abort();
      throw this.#lost(error, silence, call.signal);
    }
  }

  async #attempts<T>(call: Call, read: (response: Response, silence: Silence) => Promise<T>): Promise<T> {
    const repeat = call.repeat ?? (call.method ?? "GET") === "GET";
    for (let attempt = 0; ; attempt++) {
      const last = attempt >= this.#options.maxRetries;
      const silence = new Silence(call.timeout ?? this.#options.timeout, call.signal);
      const request = this.#request(call, silence);
      let wait = pause(attempt);
      try {
        const response = await request.send();
        if (response.ok || (call.accept?.includes(response.status) && (await isAnswer(response)))) return await read(response, silence);
        const error = await errorOf(response, call);
        // What was refused with 429 was not done, whatever it was.
        if (last || !(response.status === 429 || (repeat && isPassing(response.status)))) throw error;
        wait = Math.max(wait, retryAfter(response));
        silence.end();
      } catch (error) {
        silence.abort();
        const lost = this.#lost(error, silence, call.signal);
        if (lost === error || last || !(repeat || neverConnected(error))) throw lost;
      }
      await sleep(wait, call.signal);
    }
  }

  /** Throws what is wrong with the call itself; what `send` throws is the network's. */
  #request(call: Call, silence: Silence): { send: () => Promise<Response> } {
    const url = new URL(this.baseUrl + call.path);
    for (const [name, value] of Object.entries(call.query ?? {})) {
      for (const item of Array.isArray(value) ? value : value === undefined ? [] : [value]) url.searchParams.append(name, String(item));
    }
    const headers = new Headers(call.headers);
    if (this.#options.apiKey !== undefined) headers.set("Authorization", `Bearer ${this.#options.apiKey}`);
    const init: RequestInit & { duplex?: "half" } = { method: call.method ?? "GET", headers, signal: silence.signal };
    if (call.json !== undefined) {
      headers.set("Content-Type", "application/json");
      init.body = JSON.stringify(call.json);
    } else if (call.body !== undefined) {
      const made = call.body(() => silence.heard());
      for (const [name, value] of Object.entries(made.headers ?? {})) headers.set(name, value);
      init.body = made.body;
      if (made.body instanceof ReadableStream) init.duplex = "half";
    }
    return {
      send: () => {
        silence.heard();
        return fetch(url, init);
      },
    };
  }

  #opened(response: Response, silence: Silence): Opened {
    return { response, chunks: this.#chunks(response, silence), close: () => silence.abort() };
  }

  async *#chunks(response: Response, silence: Silence): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    try {
      while (reader !== undefined) {
        silence.heard();
        const { done, value } = await reader.read();
        if (done) return;
        silence.end(); // the reader's own time does not count
        yield value;
      }
    } catch (error) {
      throw this.#lost(error, silence, undefined);
    } finally {
      silence.abort();
    }
  }

  /** A lost connection as `ServiceUnavailable`; what the caller aborted, and errors of the platform, as they are. */
  #lost(error: unknown, silence: Silence, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted || !(silence.expired || isNetworkError(error))) return error;
    const cause = (error as { cause?: { message?: string; code?: string } }).cause;
    const reason = silence.expired ? "did not answer in time" : "cannot be reached";
    const detail = silence.expired ? `${silence.milliseconds} ms` : cause?.message || cause?.code || (error as Error).message;
    return new ServiceUnavailable(`The platform at ${this.baseUrl} ${reason} (${detail}); is it running?`, { cause: error });
  }
}

/** `fetch` says TypeError, whatever the network did. */
function isNetworkError(error: unknown): boolean {
  return error instanceof TypeError;
}

function neverConnected(error: unknown): boolean {
  return NOT_CONNECTED.has((error as { cause?: { code?: string } }).cause?.code ?? "");
}

/** What the platform asks for, in milliseconds; 0 if it does not say. */
function retryAfter(response: Response): number {
  const value = response.headers.get("retry-after") ?? "";
  return /^\d+$/.test(value) ? Math.min(Number(value) * 1000, LONGEST_RETRY_AFTER) : 0;
}

/** What the platform refused for being too much, or failed at, may be tried again. */
export function isPassing(status: number): boolean {
  return status === 429 || status >= 500;
}

/** Whether a status that an answer may have came with one, and not with an error or from a proxy. */
async function isAnswer(response: Response): Promise<boolean> {
  try {
    const body: unknown = await response.clone().json();
    return typeof body === "object" && body !== null && !("error" in body);
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

async function errorOf(response: Response, call: Call): Promise<PlatformError> {
  const text = await response.text();
  const requestId = response.headers.get("x-request-id");
  try {
    const body: unknown = JSON.parse(text);
    if (isErrorBody(body)) return fromBody(body, response.status, requestId);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return fromStatus(response.status, `${call.method ?? "GET"} ${call.path} was answered with ${response.status} ${response.statusText}`, requestId);
}

function isErrorBody(body: unknown): body is { error: string; message: string; metadata?: unknown } {
  const { error, message } = (body ?? {}) as { error?: unknown; message?: unknown };
  return typeof error === "string" && typeof message === "string";
}
