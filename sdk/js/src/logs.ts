/** `client.logs`: a run's log, live and afterwards. */

import { camelName } from "./casing.js";
import { PlatformError, ServiceUnavailable } from "./errors.js";
import type { components } from "./openapi.js";
import { events } from "./sse.js";
import { pause, sleep } from "./time.js";
import { isPassing, type Opened, type Transport } from "./transport.js";
import type { CallOptions, JobStatus, Level, LogHistory, LogLine } from "./types.js";

/** Milliseconds without even a heartbeat after which a stream is taken for lost. */
const SILENCE = 60_000;
/** Milliseconds without a connection after which a stream throws: longer than a platform takes to restart. */
export const GIVE_UP = 120_000;

/** The line's own fields; whatever else it has are figures, whose names are data. */
const FIELDS = new Set(["run_id", "agent_name"]);

export interface LineFilter {
  /** Only lines of these levels. */
  level?: readonly Level[];
  /** Only lines of these agents: classes, or names of nodes. */
  agent?: readonly string[];
}

export interface StreamOptions extends CallOptions, LineFilter {
  /** A cursor: `lastEventId` of an event, or `nextCursor` of a history. The stream starts behind it instead of at the first line. */
  after?: string;
}

/** One line as a stream's event: `data` is its JSON as the platform sent it, `log` the same as an object in camelCase. */
export class LogEvent extends MessageEvent<string> {
  readonly log: LogLine;

  constructor(data: string, lastEventId: string) {
    super("message", { data, lastEventId });
    this.log = logLine(JSON.parse(data) as Record<string, unknown>);
  }
}

/**
 * A run's lines from the first one on, then live until the job has ended. Either `for await` over it gives LogLines, or
 * set `onmessage`, as of an EventSource; nothing is asked before.
 *
 * A lost connection is taken up again behind the last line that was delivered: none is lost, none comes twice. After two
 * minutes without a connection the stream throws ServiceUnavailable, and so it does with what the platform refuses.
 */
export class LogStream implements AsyncIterable<LogLine> {
  /** Called once with the job's final status. */
  onend: ((status: JobStatus) => void) | null = null;
  /** Called once, when the stream has given up. Without it the error is thrown where nobody catches it. */
  onerror: ((error: unknown) => void) | null = null;
  readonly #transport: Transport;
  readonly #path: string;
  readonly #runId: string;
  readonly #wanted: LineFilter;
  readonly #signal: AbortSignal | undefined;
  readonly #closing = new AbortController();
  #after: string | undefined;
  #onmessage: ((event: LogEvent) => void) | null = null;
  #read = false;
  #status: JobStatus | undefined;

  constructor(transport: Transport, runId: string, { after, level, agent, signal }: StreamOptions = {}) {
    this.#transport = transport;
    this.#runId = runId;
    this.#wanted = { ...(level && { level }), ...(agent && { agent }) };
    this.#path = `/logs/stream/${encodeURIComponent(runId)}`;
    this.#after = after;
    this.#signal = signal;
  }

  get onmessage(): ((event: LogEvent) => void) | null {
    return this.#onmessage;
  }

  set onmessage(handler: ((event: LogEvent) => void) | null) {
    this.#onmessage = handler;
    if (handler !== null && !this.#read) void this.#deliver(this.#events());
  }

  /** Ends the stream; a `for await` over it ends too. */
  close(): void {
    this.#closing.abort();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogLine> {
    for await (const event of this.#events()) yield event.log;
  }

  async #deliver(found: AsyncGenerator<LogEvent>): Promise<void> {
    try {
      for await (const event of found) {
        try {
          this.#onmessage?.(event);
        } catch (error) {
          report(error); // a handler's mistake does not end the stream
        }
      }
    } catch (error) {
      (this.onerror ?? report)(error);
      return;
    }
    if (this.#status !== undefined) this.onend?.(this.#status);
  }

  #events(): AsyncGenerator<LogEvent> {
    if (this.#read) throw new Error("This stream is being read already; open another one with client.logs.stream()");
    this.#read = true;
    return this.#connections();
  }

  async *#connections(): AsyncGenerator<LogEvent> {
    const closing = this.#closing.signal;
    const signal = this.#signal === undefined ? closing : AbortSignal.any([this.#signal, closing]);
    let attempt = 0;
    let lostAt: number | undefined;
    const noted = async function* ({ chunks }: Opened): AsyncGenerator<Uint8Array> {
      for await (const chunk of chunks) {
        attempt = 0;
        lostAt = undefined;
        yield chunk;
      }
    };
    while (!closing.aborted) {
      try {
        for await (const event of events(noted(await this.#open(signal)))) {
          if (event.kind === "end") {
            this.#status = (JSON.parse(event.data) as { status: JobStatus }).status;
            return;
          }
          this.#after = event.id ?? this.#after;
          if (event.kind === "message") yield new LogEvent(event.data, this.#after ?? "");
          if (closing.aborted) return;
        }
        throw new ServiceUnavailable(`The log stream of run '${this.#runId}' ended before the job did`);
      } catch (error) {
        if (closing.aborted) return;
        const passing = error instanceof ServiceUnavailable || (error instanceof PlatformError && isPassing(error.httpStatus ?? 0));
        lostAt ??= performance.now();
        if (signal.aborted || !passing || performance.now() - lostAt > GIVE_UP) throw error;
      }
      await sleep(pause(attempt++), signal).catch((error: unknown) => {
        if (!closing.aborted) throw error;
      });
    }
  }

  #open(signal: AbortSignal): Promise<Opened> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (this.#after !== undefined) headers["Last-Event-ID"] = this.#after;
    return this.#transport.openOnce({ path: this.#path, query: { ...this.#wanted }, headers, signal, timeout: SILENCE });
  }
}

export class Logs {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The run's lines, live. */
  stream(runId: string, options: StreamOptions = {}): LogStream {
    return new LogStream(this.#transport, runId, options);
  }

  /** The first `limit` lines (at most 1,000), or those behind the cursor `after`; `nextCursor` reads on. */
  async history(runId: string, { limit = 100, after, level, agent, signal }: StreamOptions & { limit?: number } = {}): Promise<LogHistory> {
    const path = `/logs/history/${encodeURIComponent(runId)}`;
    const found = (await this.#transport.raw({ path, query: { limit, after, level, agent }, signal })) as components["schemas"]["LogHistory"];
    return { runId: found.run_id, logs: found.logs.map(logLine), total: found.total, nextCursor: found.next_cursor ?? null };
  }
}

/** A line as the platform sent it, with its own fields in camelCase. */
export function logLine(line: Record<string, unknown>): LogLine {
  return Object.fromEntries(Object.entries(line).map(([name, value]) => [FIELDS.has(name) ? camelName(name) : name, value])) as LogLine;
}

function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
