/** `client.runs.channel`: a run's log, who watches it, and commands to it, over one WebSocket. */

import { fromBody, ServiceUnavailable } from "./errors.js";
import { GIVE_UP, logLine } from "./logs.js";
import { pause, sleep } from "./time.js";
import type { Transport } from "./transport.js";
import type { CallOptions, JobStatus, LogLine } from "./types.js";

export interface ChannelOptions extends CallOptions {
  /** A cursor: the `id` of a log message. The channel starts behind it instead of at the first line. */
  after?: string;
}

/** Somebody who watches the run; `user` is null where there is no authentication. */
export interface Present {
  user: string | null;
  since: string;
}

/** `list` is who is there at first, and `user` then who you are; `join` and `leave` say who came or went. */
export interface PresenceMessage {
  type: "presence";
  event: "list" | "join" | "leave";
  user: string | null;
  users: Present[];
}

export type ChannelMessage = { type: "log"; id: string; log: LogLine } | PresenceMessage | { type: "end"; status: JobStatus };

interface Answer {
  resolve: (result: Record<string, unknown>) => void;
  reject: (error: unknown) => void;
}

/**
 * Read it with `for await`: log lines from the first one on, who comes and goes, and at last how the job has ended. Commands
 * may be sent meanwhile; each throws what the platform refuses it with.
 *
 * A lost connection is taken up again behind the last line, so no line is lost and none comes twice; a command whose answer was
 * lost with it throws ServiceUnavailable.
 */
export class RunChannel implements AsyncIterable<ChannelMessage> {
  readonly #transport: Transport;
  readonly #runId: string;
  readonly #closing = new AbortController();
  readonly #signal: AbortSignal;
  readonly #answers = new Map<string, Answer>();
  #after: string | undefined;
  #messages: ChannelMessage[] = [];
  /** Called, and forgotten, with every change: messages, a connection, the end. */
  #wake: (() => void)[] = [];
  #socket: WebSocket | undefined;
  #running = false;
  #ended = false;
  #failure: unknown;

  constructor(transport: Transport, runId: string, { after, signal }: ChannelOptions = {}) {
    this.#transport = transport;
    this.#runId = runId;
    this.#after = after;
    this.#signal = signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChannelMessage> {
    this.#start();
    try {
      for (;;) {
        yield* this.#messages.splice(0);
        if (this.#messages.length > 0) continue;
        if (this.#failure !== undefined) throw this.#failure;
        if (this.#ended) return;
        await this.#change();
      }
    } finally {
      this.close();
    }
  }

  /** Ends the channel; a `for await` over it ends too. The job goes on. */
  close(): void {
    this.#closing.abort();
  }

  /** Cancels the job; the answer is that of `jobs.cancel`, under the API's names. */
  cancel(): Promise<Record<string, unknown>> {
    return this.#command({ command: "cancel" });
  }

  /** Cancels the job, but keeps what a training that runs has learned as a model. */
  stopAndKeep(): Promise<Record<string, unknown>> {
    return this.#command({ command: "stop_and_keep" });
  }

  /** Asks the training that runs for a checkpoint after its current step. Throws Conflict where none runs. */
  async checkpointNow(): Promise<void> {
    await this.#command({ command: "checkpoint_now" });
  }

  /** Writes a line with its author into the run's log, for everybody who watches and for later; its cursor. */
  async comment(text: string): Promise<string> {
    return String((await this.#command({ command: "comment", text }))["log_id"]);
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    void this.#run().then(
      () => this.#finish(undefined),
      (error: unknown) => this.#finish(this.#closing.signal.aborted ? undefined : error),
    );
  }

  async #run(): Promise<void> {
    let lostAt: number | undefined;
    for (let attempt = 0; !this.#ended && !this.#signal.aborted; attempt++) {
      if (await this.#connection()) {
        attempt = 0;
        lostAt = undefined;
      } else {
        // A WebSocket does not say why it was refused; the log, to which the same belongs, does.
        await this.#transport.raw({ path: `/logs/history/${encodeURIComponent(this.#runId)}`, query: { limit: 1, after: this.#after }, signal: this.#signal });
      }
      if (this.#ended) return;
      lostAt ??= performance.now();
      if (performance.now() - lostAt > GIVE_UP) throw new ServiceUnavailable(`The channel of run '${this.#runId}' cannot be opened`);
      await sleep(pause(attempt), this.#signal);
    }
    this.#signal.throwIfAborted();
  }

  /** One connection, to its end; whether it came to be. */
  #connection(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = this.#transport.socket(`/ws/runs/${encodeURIComponent(this.#runId)}`, this.#after === undefined ? {} : { after: this.#after });
      let opened = false;
      const gone = (): void => {
        [socket.onopen, socket.onmessage, socket.onclose, socket.onerror] = [null, null, null, null];
        this.#signal.removeEventListener("abort", giveUp);
        this.#socket = undefined;
        this.#refuse(new ServiceUnavailable(`The connection to run '${this.#runId}' was lost before the command was answered`));
        resolve(opened);
      };
      const giveUp = (): void => {
        gone(); // not when the platform has said goodbye too, which one that is lost never does
        socket.close();
      };
      this.#signal.addEventListener("abort", giveUp);
      socket.onopen = () => {
        opened = true;
        this.#socket = socket;
        this.#changed();
      };
      socket.onmessage = (event) => this.#take(JSON.parse(String(event.data)) as Record<string, unknown>);
      socket.onclose = gone;
      socket.onerror = gone; // some say no more than this of a connection that was refused
    });
  }

  #take(message: Record<string, unknown>): void {
    const { type } = message;
    if (type === "ack" || type === "error") {
      const answer = this.#answers.get(String(message["re"]));
      this.#answers.delete(String(message["re"]));
      if (type === "ack") answer?.resolve(message["result"] as Record<string, unknown>);
      else answer?.reject(fromBody(message as unknown as Parameters<typeof fromBody>[0]));
      return;
    }
    if (type === "log") {
      this.#after = String(message["id"]);
      this.#messages.push({ type, id: this.#after, log: logLine(message["data"] as Record<string, unknown>) });
    } else if (type === "presence" || type === "end") {
      this.#messages.push(message as unknown as ChannelMessage);
      this.#ended ||= type === "end";
    }
    this.#changed();
  }

  async #command(command: Record<string, string>): Promise<Record<string, unknown>> {
    this.#start();
    while (this.#socket === undefined) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended) throw new ServiceUnavailable(`The channel of run '${this.#runId}' has ended`);
      await this.#change();
    }
    const id = crypto.randomUUID();
    this.#socket.send(JSON.stringify({ ...command, id }));
    return new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }));
  }

  #finish(failure: unknown): void {
    this.#ended = true;
    this.#failure = failure;
    this.#changed();
  }

  #refuse(error: unknown): void {
    for (const { reject } of this.#answers.values()) reject(error);
    this.#answers.clear();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  #changed(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

export class Runs {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The run's channel. Needs WebSockets: a browser, or Node 22 or newer. */
  channel(runId: string, options: ChannelOptions = {}): RunChannel {
    return new RunChannel(this.#transport, runId, options);
  }
}
