"""Whether a model is still made of the bytes that it was made of: its chain of hashes, computed again from what is stored.

`llm-platform verify MODEL_ID` shows it. Nothing that was remembered about a file is believed here: every byte is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from llm_platform.errors import InvalidConfig, NotFound, StorageError
from llm_platform.models import registered
from llm_platform.registry import RegisteredModel, Registry
from llm_platform.registry.artifacts import files_digest
from llm_platform.registry.lineage import Link, chained, config_sha256, head, lineage
from llm_platform.reporting import ConsoleReporter, Reporter
from llm_platform.settings import Settings
from llm_platform.specs.base import Resource
from llm_platform.storage import MANIFEST, Storage, Stored
from llm_platform.storage.base import CHUNK, manifest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class VerifiedLink(Resource):
    """One link, as it was recorded and as it is."""

    kind: str
    name: str
    address: str | None
    ok: bool
    problems: list[str] = Field(description="What differs; empty if nothing does.")
    sha256: str | None = Field(description="Of the bytes, as it was recorded; None if it was not.")
    found_sha256: str | None = Field(description="Of the bytes that are stored now; None if they could not be read.")
    hash: str = Field(description="The link's hash in the chain, from what was recorded.")
    found_hash: str | None = Field(description="The same from what is stored; None if that, or something before it, could not be read.")


class Verification(Resource):
    """A model's chain of hashes, computed again. `hash` stands for the whole chain, as the model card shows it."""

    model_id: str
    ok: bool
    hash: str
    links: list[VerifiedLink]


@dataclass
class _Found:
    """What was read of a link."""

    sha256: str | None = None
    problems: list[str] = field(default_factory=list)


Told = Callable[[int], None]
"""Called with the number of bytes that were read."""


def verify(model_id: str, registry: Registry, storage: Storage, settings: Settings, reporter: Reporter) -> Verification:
    """Reads everything that the model was made from and everything that was made of it.

    What is missing or cannot be read is a problem of its link. Raises NotFound if there is no such model, ServiceUnavailable if
    MLflow fails, Cancelled if the reporter says so.
    """
    model = registered(model_id, registry)
    links = lineage(model)
    done: list[VerifiedLink] = []
    hashes: dict[str, str | None] = {}
    read: dict[tuple[str, str | None], _Found] = {}  # the weights are often an export as well
    for link in links:
        place = (link.address or link.title, link.sha256)
        found = read[place] = read.get(place) or _look(link, model, registry, storage, settings, reporter)
        before = [hashes[title] for title in link.inputs]
        known = [one for one in before if one is not None]
        again = chained(link.kind, link.name, found.sha256, known) if found.sha256 and len(known) == len(before) else None
        hashes[link.title] = again
        done.append(
            VerifiedLink(
                **link.model_dump(include={"kind", "name", "address", "sha256", "hash"}),
                ok=not found.problems,
                problems=found.problems,
                found_sha256=found.sha256,
                found_hash=again,
            )
        )
    return Verification(model_id=model_id, ok=all(one.ok for one in done), hash=head(links), links=done)


def _look(link: Link, model: RegisteredModel, registry: Registry, storage: Storage, settings: Settings, reporter: Reporter) -> _Found:
    """The bytes of a link against what was recorded of them."""
    told = _Counted(reporter, f"{link.kind} {link.name}")
    if link.sha256 is None:
        return _Found(problems=["the registry has no digest of it, so nothing proves what it was"])
    try:
        if link.kind == "config":
            return _same(link, config_sha256(model.training_config))
        if link.kind == "base model":
            return _base(link, settings, reporter, told)
        if link.kind == "registered":
            return _files(link, {name: digest for name, size, digest in told.over(registry.weights_digests(model))})
        return _stored(link, storage, told)
    except NotFound:
        return _Found(problems=["it is no longer stored"])
    except StorageError as error:
        return _Found(problems=[error.message])


class _Counted:
    """Tells a reporter how many bytes of a link were read."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self._reporter, self._what = reporter, what
        self.done = self.total = 0

    def __call__(self, size: int) -> None:
        self._reporter.check_cancelled()
        self.done += size
        self._reporter.progress(self.done, max(self.total, self.done), self._what)

    def over(self, files: Iterator[tuple[str, int, str]]) -> Iterator[tuple[str, int, str]]:
        for item in files:
            self(item[1])
            yield item


def _same(link: Link, found: str) -> _Found:
    return _Found(found, [] if found == link.sha256 else [_differs("it", link.sha256, found)])


def _files(link: Link, found: Mapping[str, str]) -> _Found:
    """Files by name against those of the link."""
    problems = [f"{name} is missing" for name in link.files if name not in found]
    problems += [f"{name} was not there when it was recorded" for name in found if name not in link.files]
    problems += [_differs(name, link.files[name], digest) for name, digest in found.items() if link.files.get(name, digest) != digest]
    return _Found(files_digest(found), problems)


def _base(link: Link, settings: Settings, reporter: Reporter, told: _Counted) -> _Found:
    from llm_platform.training import base_model

    try:
        if not base_model.is_ready(link.name, settings):
            return _Found(problems=["it is not on this machine"])
        folder = base_model.resolve(link.name, settings, reporter)
    except InvalidConfig as error:
        return _Found(problems=[error.message])
    there = [name for name in link.files if (folder / name).is_file()]
    told.total = sum((folder / name).stat().st_size for name in there)
    more = [path.name for path in folder.glob("*.safetensors") if path.name not in link.files]
    return _files(link, {name: _read(_pieces(folder / name), told)[1] for name in [*there, *more]})


def _stored(link: Link, storage: Storage, told: _Counted) -> _Found:
    """A file of the object store, or a folder by its manifest and each of its files."""
    address = link.address or ""
    stat = storage.stat(address)
    if stat is None:
        raise NotFound("")
    told.total = stat.size_bytes
    if not stat.is_folder:
        return _same(link, _read(storage.read_range(address), told)[1])
    folder = storage.folder(address)
    problems, files = [], {}
    for name, recorded in folder.files.items():
        try:
            size, digest = _read(storage.read_range(recorded.address), told)
        except NotFound:
            problems.append(f"{name} is missing")
            continue
        files[name] = Stored(recorded.address, size, digest)
        if digest != recorded.sha256:
            problems.append(_differs(name, recorded.sha256, digest))
    if folder.sha256 != link.sha256:
        problems.append(_differs(MANIFEST, link.sha256, folder.sha256))
    return _Found(sha256(manifest(files)).hexdigest(), problems)


def _read(pieces: Iterator[bytes], told: Told) -> tuple[int, str]:
    """Size and SHA-256 of a file that comes piece by piece."""
    digest, size = sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        told(len(piece))
    return size, digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _differs(what: str, recorded: str | None, found: str) -> str:
    return f"{what} differs: its SHA-256 is {found}, and {recorded} was recorded"


class _Bar(ConsoleReporter):
    """Progress as a bar, one per link."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._what = bar, ""
        self._task: TaskID | None = None

    def progress(self, done: int, total: int, what: str) -> None:
        if self._task is None or what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._what = self._bar.add_task(what), what
        self._bar.update(self._task, completed=done, total=total)


def main(model_id: str, as_json: bool, settings: Settings) -> int:
    """Shows what `verify` finds; 0 if every link holds, else 1."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    from llm_platform.storage import storage_from

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        found = verify(model_id, Registry(settings.resolved_mlflow_url), storage_from(settings), settings, _Bar(bar))
    if as_json:
        print(found.model_dump_json(indent=2))
        return 0 if found.ok else 1
    console = Console(highlight=False, soft_wrap=True)
    for link in found.links:
        console.print(
            Text("OK    ", "green") if link.ok else Text("BROKEN", "bold red"), Text(f" {link.hash[:12]}  {link.kind} {link.name}")
        )
        for problem in link.problems:
            console.print(Text(f"       {problem}"))
    broken = sum(not link.ok for link in found.links)
    verdict = f"{broken} of {len(found.links)} links are broken" if broken else f"All {len(found.links)} links hold"
    console.print(Text(f"{verdict}; the chain's hash is {found.hash}"))
    return 0 if found.ok else 1
