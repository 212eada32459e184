/** Pauses, and the time that an answer may take. */

export const FIRST_PAUSE = 250;
export const LONGEST_PAUSE = 8_000;

/** Milliseconds before the next attempt: doubling, and uneven so that many clients do not come back at once. */
export function pause(attempt: number): number {
  return Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt) * (0.75 + Math.random() / 2);
}

/** Throws the signal's reason as soon as it is aborted. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const aborted = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}

/** Aborts its `signal` when nothing was heard for some time after the last `heard`, or when the caller's signal is aborted. */
export class Silence {
  expired = false;
  readonly #controller = new AbortController();
  readonly signal: AbortSignal;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly milliseconds: number,
    caller?: AbortSignal,
  ) {
    this.signal = caller === undefined ? this.#controller.signal : AbortSignal.any([caller, this.#controller.signal]);
  }

  heard(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.expired = true;
      this.#controller.abort(new DOMException("Nothing was heard in time", "TimeoutError"));
    }, this.milliseconds);
  }

  /** The time counts no more. */
  end(): void {
    clearTimeout(this.#timer);
  }

  /** Gives the connection up. */
  abort(): void {
    this.end();
    this.#controller.abort();
  }
}
