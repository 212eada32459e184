"""The messages of a run's channel (WebSocket `/api/v1/ws/runs/{run_id}`): commands come in, everything else goes out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from llm_platform.errors import InvalidInput
from llm_platform.specs.base import Resource, Spec, problems
from llm_platform.specs.resources import JobStatus, LogLine

PROTOCOL = "llm-platform"
"""The subprotocol that a client may offer, and must where it sends its key as another one."""
KEY_PROTOCOL = "bearer."
"""Before a key that comes as a subprotocol, since a browser can set no header."""
MAX_MESSAGE = 64 * 2**10
"""Bytes of a command; a longer message ends the connection."""
MAX_COMMENT = 4_000
"""Characters."""


class _Command(Spec):
    id: str | None = Field(default=None, max_length=64, description="Any text of the client's; the answer has it as `re`.")


class Cancel(_Command):
    command: Literal["cancel"]


class StopAndKeep(_Command):
    """Cancel, but keep what training has learned so far as a model."""

    command: Literal["stop_and_keep"]


class CheckpointNow(_Command):
    """Write a checkpoint after the step that is being taken."""

    command: Literal["checkpoint_now"]


class Comment(_Command):
    """A line of the run's log, with its author, for everybody who watches it and for later."""

    command: Literal["comment"]
    text: str = Field(min_length=1, max_length=MAX_COMMENT, pattern=r"\S")


class Ping(_Command):
    command: Literal["ping"]


Command = Annotated[Cancel | StopAndKeep | CheckpointNow | Comment | Ping, Field(discriminator="command")]
COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_COMMANDS: dict[str, type[_Command]] = {
    get_args(kind.model_fields["command"].annotation)[0]: kind for kind in (Cancel, StopAndKeep, CheckpointNow, Comment, Ping)
}


class LogMessage(Resource):
    """A line of the run's log; `id` and `data` are those of the log stream's event."""

    type: Literal["log"] = "log"
    id: str
    data: LogLine


class Present(Resource):
    """Somebody who watches the run, over however many connections."""

    user: str | None = Field(description="Null where there is no authentication.")
    since: datetime


class PresenceMessage(Resource):
    """Who watches the run: at first, and whenever somebody comes or goes."""

    type: Literal["presence"] = "presence"
    event: Literal["list", "join", "leave"]
    user: str | None = Field(description="Who came or went; of a list, who the client itself is.")
    users: list[Present]


class AckMessage(Resource):
    """A command was done, or is under way."""

    type: Literal["ack"] = "ack"
    command: str
    re: str | None
    result: dict[str, Any] = Field(default={}, description="What the REST call of the same meaning answers; of a comment, its `log_id`.")


class ErrorMessage(Resource):
    """A command was refused; the connection stays."""

    type: Literal["error"] = "error"
    re: str | None
    error: str
    message: str
    metadata: dict[str, Any]


class HeartbeatMessage(Resource):
    type: Literal["heartbeat"] = "heartbeat"


class EndMessage(Resource):
    """The job has ended; the connection closes."""

    type: Literal["end"] = "end"
    status: JobStatus


Message = Annotated[LogMessage | PresenceMessage | AckMessage | ErrorMessage | HeartbeatMessage | EndMessage, Field(discriminator="type")]
MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


def parse_command(value: Any) -> Command:
    """The command that a client sent. Raises InvalidInput with everything that is wrong."""
    name = value.get("command") if isinstance(value, dict) else None
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = f"the commands are {', '.join(_COMMANDS)}"
        what = f"unknown command '{name[:100]}'" if isinstance(name, str) else "an object with a 'command' is expected"
        message = f"{what}; {known}"
        raise InvalidInput(message[0].upper() + message[1:], errors=[{"field": "command", "agent": None, "message": message}])
    if found := problems(kind, value):
        raise InvalidInput(f"Input validation failed for '{name}'", errors=[{**item, "agent": None} for item in found])
    return COMMANDS.validate_python(value)
