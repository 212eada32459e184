/**
 * The errors of the platform, by the code in the answer, under the names that the Python SDK has.
 *
 *     PlatformError                 INTERNAL_ERROR       500
 *     ├── InvalidInput              VALIDATION_ERROR     400   a field is missing, ill-typed or out of range
 *     ├── InvalidConfig             CONFIG_ERROR         400   the fields are well-formed, what they describe is not allowed
 *     ├── DatasetError              DATASET_ERROR        400   the data cannot be read or used
 *     ├── TrainingError             TRAINING_ERROR       500   training, evaluation, export or a notebook failed
 *     ├── StorageError              STORAGE_ERROR        500   the object store failed
 *     ├── NotFound                  NOT_FOUND            404
 *     ├── Conflict                  CONFLICT             409
 *     ├── PayloadTooLarge           PAYLOAD_TOO_LARGE    413
 *     ├── RangeNotSatisfiable       VALIDATION_ERROR     416
 *     ├── RateLimited               RATE_LIMITED         429
 *     ├── Unauthorized              UNAUTHORIZED         401
 *     ├── Forbidden                 FORBIDDEN            403
 *     └── ServiceUnavailable        SERVICE_UNAVAILABLE  503   also when nobody answers
 *
 * An aborted call throws its signal's reason.
 */

/** What an answer said beside the message. */
export interface ErrorDetails {
  /** As the platform sent it: its `errors` name the fields as the API does. */
  metadata?: Record<string, unknown>;
  /** The answer's `X-Request-Id`, by which the server's log has the request. */
  requestId?: string | null;
  /** The answer's status; null where there was no answer. */
  httpStatus?: number | null;
  cause?: unknown;
}

export class PlatformError extends Error {
  static readonly code: string = "INTERNAL_ERROR";
  static readonly status: number = 500;

  readonly metadata: Record<string, unknown>;
  readonly requestId: string | null;
  readonly httpStatus: number | null;

  constructor(message: string, { metadata = {}, requestId = null, httpStatus = null, cause }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.metadata = metadata;
    this.requestId = requestId;
    this.httpStatus = httpStatus;
  }

  get code(): string {
    return (this.constructor as typeof PlatformError).code;
  }

  get status(): number {
    return (this.constructor as typeof PlatformError).status;
  }
}

export class InvalidInput extends PlatformError {
  static override readonly code = "VALIDATION_ERROR";
  static override readonly status = 400;
}

export class InvalidConfig extends PlatformError {
  static override readonly code = "CONFIG_ERROR";
  static override readonly status = 400;
}

export class DatasetError extends PlatformError {
  static override readonly code = "DATASET_ERROR";
  static override readonly status = 400;
}

export class TrainingError extends PlatformError {
  static override readonly code = "TRAINING_ERROR";
  static override readonly status = 500;
}

export class StorageError extends PlatformError {
  static override readonly code = "STORAGE_ERROR";
  static override readonly status = 500;
}

export class NotFound extends PlatformError {
  static override readonly code = "NOT_FOUND";
  static override readonly status = 404;
}

export class Conflict extends PlatformError {
  static override readonly code = "CONFLICT";
  static override readonly status = 409;
}

export class PayloadTooLarge extends PlatformError {
  static override readonly code = "PAYLOAD_TOO_LARGE";
  static override readonly status = 413;
}

export class RangeNotSatisfiable extends PlatformError {
  static override readonly code = "VALIDATION_ERROR";
  static override readonly status = 416;
}

export class RateLimited extends PlatformError {
  static override readonly code = "RATE_LIMITED";
  static override readonly status = 429;
}

export class Unauthorized extends PlatformError {
  static override readonly code = "UNAUTHORIZED";
  static override readonly status = 401;
}

export class Forbidden extends PlatformError {
  static override readonly code = "FORBIDDEN";
  static override readonly status = 403;
}

export class ServiceUnavailable extends PlatformError {
  static override readonly code = "SERVICE_UNAVAILABLE";
  static override readonly status = 503;
}

const CLASSES = [
  InvalidInput,
  InvalidConfig,
  DatasetError,
  TrainingError,
  StorageError,
  NotFound,
  Conflict,
  PayloadTooLarge,
  RangeNotSatisfiable,
  RateLimited,
  Unauthorized,
  Forbidden,
  ServiceUnavailable,
] as const;

/** The error that an error body stands for. The status tells the classes of one code apart. */
export function fromBody(
  body: { error: string; message: string; metadata?: unknown },
  status?: number,
  requestId?: string | null,
): PlatformError {
  const ofCode = CLASSES.filter((cls) => cls.code === body.error);
  const kind = ofCode.find((cls) => cls.status === status) ?? ofCode[0] ?? PlatformError;
  const metadata = typeof body.metadata === "object" && !Array.isArray(body.metadata) ? body.metadata : null;
  return new kind(body.message, { metadata: { ...metadata }, requestId: requestId ?? null, httpStatus: status ?? null });
}

/** The error for an answer that a proxy wrote, which has no error body. */
export function fromStatus(status: number, message: string, requestId: string | null): PlatformError {
  const kinds: Record<number, typeof PlatformError> = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: PayloadTooLarge,
    429: RateLimited,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
  };
  return new (kinds[status] ?? PlatformError)(message, { requestId, httpStatus: status });
}
