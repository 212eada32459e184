"""Every error that the platform raises on purpose, and the code by which a client knows it.

    PlatformError                 INTERNAL_ERROR       500
    ├── InvalidInput              VALIDATION_ERROR     400   a field is missing, ill-typed or out of range
    ├── InvalidConfig             CONFIG_ERROR         400   the fields are well-formed, what they describe is not allowed
    ├── DatasetError              DATASET_ERROR        400   the data cannot be read or used
    ├── TrainingError             TRAINING_ERROR       500   training, evaluation, export or a notebook failed
    ├── StorageError              STORAGE_ERROR        500   the object store failed
    ├── NotFound                  NOT_FOUND            404
    ├── Conflict                  CONFLICT             409
    ├── PayloadTooLarge           PAYLOAD_TOO_LARGE    413
    ├── RangeNotSatisfiable       VALIDATION_ERROR     416
    ├── RateLimited               RATE_LIMITED         429
    ├── Unauthorized              UNAUTHORIZED         401
    ├── Forbidden                 FORBIDDEN            403
    └── ServiceUnavailable        SERVICE_UNAVAILABLE  503

`Cancelled` is not an error of the platform: it unwinds the stack of work that was asked to stop.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PlatformError(Exception):
    """The base of the tree: a message for a person and `metadata` for a program, both free of secrets and server paths."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retryable: bool = False
    """True where trying the same thing again can help (input and output, never data or configuration)."""
    request_id: str | None = None
    """In the SDK the answer's `X-Request-Id`, by which the server's log has the request."""
    http_status: int | None = None
    """In the SDK the answer's status; None where there was no answer."""

    def __init__(self, message: str, /, **metadata: Any) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata

    def body(self) -> dict[str, Any]:
        """The error body of the API specification."""
        return {"error": self.code, "message": self.message, "metadata": self.metadata}


class InvalidInput(PlatformError):
    code = "VALIDATION_ERROR"
    status = 400


class InvalidConfig(PlatformError):
    code = "CONFIG_ERROR"
    status = 400


class DatasetError(PlatformError):
    code = "DATASET_ERROR"
    status = 400


class TrainingError(PlatformError):
    code = "TRAINING_ERROR"
    status = 500


class StorageError(PlatformError):
    code = "STORAGE_ERROR"
    status = 500
    retryable = True


class NotFound(PlatformError):
    code = "NOT_FOUND"
    status = 404


class Conflict(PlatformError):
    code = "CONFLICT"
    status = 409


class PayloadTooLarge(PlatformError):
    code = "PAYLOAD_TOO_LARGE"
    status = 413


class RangeNotSatisfiable(PlatformError):
    code = "VALIDATION_ERROR"
    status = 416


class RateLimited(PlatformError):
    code = "RATE_LIMITED"
    status = 429


class Unauthorized(PlatformError):
    code = "UNAUTHORIZED"
    status = 401


class Forbidden(PlatformError):
    code = "FORBIDDEN"
    status = 403


class ServiceUnavailable(PlatformError):
    code = "SERVICE_UNAVAILABLE"
    status = 503
    retryable = True


class Cancelled(Exception):
    """The work was asked to stop; whoever catches it cleans up and raises it again."""


def error_classes() -> list[type[PlatformError]]:
    """Every class of the tree, the base first."""
    found: list[type[PlatformError]] = [PlatformError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


def from_body(body: dict[str, Any], status: int | None = None) -> PlatformError:
    """The exception that an error body stands for, so that an error crosses a process border unchanged.

    The answer's status, where there is one, tells the classes of one code apart.
    """
    of_code = [cls for cls in error_classes() if cls.code == body.get("error")]
    kind = next((cls for cls in of_code if cls.status == status), of_code[0] if of_code else PlatformError)
    return kind(str(body.get("message", "")), **body.get("metadata", {}))
