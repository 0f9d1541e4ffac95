"""A definition reaches the built-ins and the functions an operator put in reach, and nothing else of Python."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cirkelline.configs.errors import UsageError
from cirkelline.configs.schema import ToolSpec
from cirkelline.tools import builtins
from cirkelline.tools.toolbox import Toolbox, ToolNotFound

Write = Callable[..., Path]

BILLING = """
from __future__ import annotations

from cirkelline.tools import tool

SECRET = "x"

def charge_card(amount: int) -> str:
    '''Charge the card.'''
    return f"charged {amount}"

@tool(name="pay-back", timeout="10s")
async def refund(amount: int) -> str:
    return "refunded"

def _internal(amount: int) -> str:
    return "never"

class Ledger:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, text: str | bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def python(label: str) -> ToolSpec:
    """A definition as an INSERT could make it, with no parser before it."""
    return ToolSpec.model_construct(name=None, python=label, timeout=None)


def called(toolbox: Toolbox, label: str, **arguments: Any) -> Any:
    return toolbox.resolve(python(label)).function(**arguments)


def refusal(toolbox: Toolbox, spec: ToolSpec | str) -> str:
    with pytest.raises(ToolNotFound) as refused:
        toolbox.resolve(python(spec) if isinstance(spec, str) else spec)
    assert isinstance(refused.value, UsageError)
    assert "\n" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    return str(refused.value)


def test_a_function_of_the_folder_becomes_a_tool(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    found = Toolbox(folder).resolve(ToolSpec(python="billing:charge_card"))
    assert (found.name, found.description, found.timeout) == ("charge_card", "Charge the card.", None)
    assert found.function(amount=3) == "charged 3"
    assert found.function.__module__ == "cirkelline_tools.billing"


def test_the_definitions_timeout_wins_over_the_tools_own(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    toolbox = Toolbox(folder)
    assert toolbox.resolve(ToolSpec(python="billing:refund")).timeout == 10.0
    assert toolbox.resolve(ToolSpec(python="billing:refund", timeout="2s")).timeout == 2.0
    assert toolbox.resolve(ToolSpec(python="billing:refund")).timeout == 10.0
    assert toolbox.resolve(ToolSpec(name="calculate", timeout="1s")).timeout == 1.0


def test_a_built_in_is_found_by_its_name_without_any_folder() -> None:
    assert Toolbox(None).resolve(ToolSpec(name="calculate")) is builtins.BUILTINS["calculate"]


def test_an_unknown_built_in_is_told_with_the_nearest(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    assert "did you mean 'calculate'?" in refusal(Toolbox(folder), ToolSpec(name="calculates"))
    assert 'did you mean python: "billing:charge_card"?' in refusal(Toolbox(folder), ToolSpec(name="charge_card"))
    assert "built in are ask_human, calculate, current_time" in refusal(Toolbox(None), ToolSpec(name="nothing_like_it"))


def test_packages_relative_imports_and_siblings_work(folder: Path, write: Write) -> None:
    write("rates.py", "RATE = 2\n")
    write("shop/__init__.py", "def opened() -> str: return 'yes'\n")
    write("shop/tax.py", "from ..rates import RATE\nfrom . import opened\ndef tax(n: int) -> int: return n * RATE\n")
    write("plain/inner.py", "import rates\ndef rate() -> int: return rates.RATE\n")
    toolbox = Toolbox(folder)
    assert called(toolbox, "shop:opened") == "yes"
    assert called(toolbox, "shop.tax:tax", n=4) == 8
    assert called(toolbox, "plain.inner:rate") == 2


@pytest.mark.parametrize("label", ["os:system", "subprocess:run", "builtins:eval", "posix:system", "shutil:rmtree"])
@pytest.mark.parametrize("has_folder", [True, False])
def test_modules_of_python_itself_are_refused_with_reason_and_remedy(
    folder: Path, label: str, has_folder: bool
) -> None:
    said = refusal(Toolbox(folder if has_folder else None), label)
    assert f"tool '{label}' is not allowed" in said
    assert "is not listed in CIRKELLINE_TOOL_MODULES" in said
    assert "tools folder" in said


@pytest.mark.parametrize(
    "label",
    [
        "../outside:run", "..outside:run", "a/../../outside:run", "a..b:run", ".outside:run", "outside.:run",
        "/etc/passwd:run", "outside:run\n", "outside\n:run", "out\x00side:run", "outside:run.__call__", "outside:",
        ":run", "outside", "", "a:b:c", "outside:run()", "оutside:run",  # noqa: RUF001
    ],
)  # fmt: skip
def test_what_is_no_module_and_function_is_refused(tmp_path: Path, folder: Path, label: str) -> None:
    (tmp_path / "outside.py").write_text("def run() -> None: ...\n")
    assert 'A Python tool is named "module:function"'.lower() in refusal(Toolbox(folder), label).lower()


@pytest.mark.parametrize("label", ["billing:_internal", "_private:run", "__init__:run", "billing:__build_class__"])
def test_private_names_are_refused(folder: Path, write: Write, label: str) -> None:
    write("billing.py", BILLING)
    write("_private.py", "def run() -> None: ...\n")
    write("__init__.py", "def run() -> None: ...\n")
    assert "begins with _" in refusal(Toolbox(folder), label)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from os import system as go", "is only imported there, from 'posix'"),
        ("import os\ngo = os.system", "is only imported there, from 'posix'"),
        ("from subprocess import run as go", "is only imported there, from 'subprocess'"),
        ("from shutil import rmtree as go", "write a function in"),
        ("go = eval", "is only imported there, from 'builtins'"),
        ("from .other import go", "is only imported there, from 'other'"),
        ("import os as go", "is a module, not a function"),
        ("from subprocess import Popen as go", "is a type, not a function"),
        ("import functools, os\ngo = functools.partial(os.system)", "is a partial, not a function"),
        ("import os\ndef __getattr__(name): return os.system", "has no function 'go'"),
        ("class Any:\n  def __getattr__(self, name): return self\ngo = Any()", "is a Any, not a function"),
        ("go = lambda: 1", "a lambda has no name"),
        ("go = 'text'", "is a str, not a function"),
        ("class go: pass", "is a type, not a function"),
        ("def go(x): pass", "parameter 'x' has no type; write x: str"),
        ("def goo() -> None: ...", "did you mean 'goo'?"),
        ("def quite_different() -> None: ...", "it has quite_different"),
    ],
)
def test_only_functions_written_in_the_module_are_tools(folder: Path, write: Write, source: str, said: str) -> None:
    write("trick.py", source)
    write("other.py", "def go() -> None: ...\n")
    assert said in refusal(Toolbox(folder), "trick:go")


def test_a_marked_tool_may_be_imported_from_elsewhere(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    write("shop.py", "from .billing import refund\nfrom cirkelline.tools.builtins import calculate\n")
    toolbox = Toolbox(folder)
    assert toolbox.resolve(python("shop:refund")).name == "pay-back"
    assert called(toolbox, "shop:calculate", expression="1+1") == "2"


def test_a_mark_copied_by_a_decorator_does_not_hide_the_decorator(folder: Path, write: Write) -> None:
    write(
        "guarded.py",
        "import functools\nfrom cirkelline.tools import tool\n"
        "def guard(f):\n  @functools.wraps(f)\n  def inner(**given): return 'guarded ' + f(**given)\n  return inner\n"
        "@guard\n@tool\ndef go() -> str: return 'ran'\n",
    )
    assert called(Toolbox(folder), "guarded:go") == "guarded ran"


@pytest.mark.parametrize("linked", ["file", "folder", "init"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, folder: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "__init__.py").write_text("raise SystemExit('must not be imported')\n")
    (outside / "evil.py").write_text("raise SystemExit('must not be imported')\ndef go() -> None: ...\n")
    if linked == "file":
        (folder / "evil.py").symlink_to(outside / "evil.py")
    elif linked == "folder":
        (folder / "pack").symlink_to(outside)
    else:
        (folder / "pack").mkdir()
        (folder / "pack" / "__init__.py").symlink_to(outside / "__init__.py")
        (folder / "pack" / "evil.py").write_text("def go() -> None: ...\n")
    toolbox = Toolbox(folder)
    label = "evil:go" if linked == "file" else "pack.evil:go"
    assert "is a link out of the tools folder" in refusal(toolbox, label)
    assert [each for each in toolbox.available() if each == label and linked != "init"] == []


def test_links_to_themselves_and_endless_names_are_refused(folder: Path) -> None:
    (folder / "ring").symlink_to(folder / "ring")
    (folder / "loop.py").symlink_to(folder / "loop.py")
    toolbox = Toolbox(folder)
    assert toolbox.available() == sorted(builtins.BUILTINS)
    for label in ("ring.inner:go", "loop:go", "x" * 300 + ":go", "a." * 3000 + "b:go"):
        refusal(toolbox, label)


def test_links_inside_the_folder_and_a_linked_folder_work(tmp_path: Path, folder: Path, write: Write) -> None:
    write("data/billing.py", "def charge() -> str: return 'ok'\n")
    (folder / "billing.py").symlink_to(folder / "data" / "billing.py")
    (tmp_path / "link").symlink_to(folder)
    assert called(Toolbox(tmp_path / "link"), "billing:charge") == "ok"


def test_a_file_named_like_a_standard_module_stands_in_for_nothing(folder: Path, write: Write) -> None:
    write("json.py", "import json\ndef dumps(text: str) -> str: return json.dumps([text])\n")
    assert called(Toolbox(folder), "json:dumps", text="a") == '["a"]'
    assert sys.modules["json"] is json
    assert sys.path[-1] == str(folder)
    assert str(folder) not in sys.path[:-1]


def test_an_edit_of_the_same_size_within_a_second_is_seen(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as it is on a worker
    path = write("billing.py", "def price() -> int: return 1\n")
    toolbox = Toolbox(folder)
    assert called(toolbox, "billing:price") == 1
    before = path.stat()
    for number in range(2, 6):
        path.write_text(f"def price() -> int: return {number}\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + number))
        assert called(toolbox, "billing:price") == number
    assert not (folder / "__pycache__").exists()


def test_an_edit_of_what_a_module_imports_is_seen_too(folder: Path, write: Write) -> None:
    write("rates.py", "RATE = 1\n")
    write("near.py", "from .rates import RATE\ndef rate() -> int: return RATE\n")
    write("far.py", "from rates import RATE\ndef rate() -> int: return RATE\n")
    toolbox = Toolbox(folder)
    assert (called(toolbox, "near:rate"), called(toolbox, "far:rate")) == (1, 1)
    write("rates.py", "RATE = 22\n")
    assert (called(toolbox, "near:rate"), called(toolbox, "far:rate")) == (22, 22)


def test_an_unchanged_file_is_neither_read_nor_built_again(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    toolbox = Toolbox(folder)
    assert toolbox.resolve(python("billing:charge_card")) is toolbox.resolve(python("billing:charge_card"))


def test_a_removed_file_is_gone_and_a_new_one_is_there(folder: Path, write: Write) -> None:
    toolbox = Toolbox(folder)
    path = write("one.py", "def go() -> int: return 1\n")
    assert called(toolbox, "one:go") == 1
    path.unlink()
    assert "is not allowed" in refusal(toolbox, "one:go")
    write("two.py", "def go() -> int: return 2\n")
    assert called(toolbox, "two:go") == 2


def test_two_toolboxes_keep_their_folders_apart(tmp_path: Path) -> None:
    boxes: list[Toolbox] = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "same.py").write_text(f"def go() -> int: return {number}\n")
        boxes.append(Toolbox(tmp_path / str(number)))
    for _ in range(2):
        assert [called(box, "same:go") for box in boxes] == [1, 2]
    assert str(tmp_path / "1") not in sys.path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"def go(:\n  pass\n", "broken.py:1: SyntaxError: invalid syntax"),
        (b"\n\nraise ValueError('no config')\n", "broken.py:3: ValueError: no config"),
        (b"\nimport sys\nsys.exit(4)\n", "broken.py:3: SystemExit: 4"),
        (b"import nothing_of_this_name\n", "broken.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (b"from .sick import x\n", "sick.py:2: ZeroDivisionError: division by zero"),
        (b"x = 1\0\n", "broken.py"),
        (b"x = '\xff'\n", "broken.py"),
        (b"\tx = 1\n", "broken.py:1: IndentationError"),
        (b"(" * 5000, "broken.py"),
        (b"from cirkelline.tools import tool\n@tool\ndef go(x): ...\n", "broken.py:2: tool 'go': parameter 'x' has no"),
        (b"def go() -> None: ...\nraise ValueError('a\\nb')\n", "broken.py:2: ValueError: a b"),
        (b"raise ValueError('the value is sk-12345678')\n", "the value is ***"),
    ],
)
def test_a_module_that_does_not_load_is_told_with_its_line(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, source: bytes, said: str
) -> None:
    monkeypatch.setenv("BILLING_TOKEN", "sk-12345678")
    write("sick.py", "\nx = 1 / 0\n")
    write("broken.py", source)
    message = refusal(Toolbox(folder), "broken:go")
    assert said in message
    assert message.startswith("tool 'broken:go' cannot be ")


def test_a_missing_dependency_is_told_with_the_remedy(folder: Path, write: Write) -> None:
    write("broken.py", "import nothing_of_this_name\n")
    assert refusal(Toolbox(folder), "broken:go").endswith("; install it where the worker runs")


def test_a_mended_module_loads(folder: Path, write: Write) -> None:
    toolbox = Toolbox(folder)
    write("broken.py", "def go() -> int: return 1 +\n")
    refusal(toolbox, "broken:go")
    write("broken.py", "def go() -> int: return 1 + 1\n")
    assert called(toolbox, "broken:go") == 2


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on the search path, as pip would put it there; its name is this test's own."""
    name = f"installed_{abs(hash(str(tmp_path)))}"
    package = tmp_path / "site" / name
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from os import getcwd\ndef go() -> str: return 'installed'\n")
    (package / "inner" / "__init__.py").write_text("def go() -> str: return 'inner'\n")
    (package / "sick.py").write_text("\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return name


def test_an_allowed_module_is_allowed_and_not_what_is_in_it_or_around_it(installed: str) -> None:
    toolbox = Toolbox(None, [installed])
    assert called(toolbox, f"{installed}:go") == "installed"
    assert "is not allowed" in refusal(toolbox, f"{installed}.inner:go")
    assert "is only imported there" in refusal(toolbox, f"{installed}:getcwd")
    assert called(Toolbox(None, [f"{installed}.inner"]), f"{installed}.inner:go") == "inner"
    assert "is not allowed" in refusal(Toolbox(None, [f"{installed}.inner"]), f"{installed}:go")


def test_a_file_in_the_folder_does_not_take_an_allowed_modules_place(
    folder: Path, write: Write, installed: str
) -> None:
    write(f"{installed}.py", "def go() -> str: return 'impostor'\n")
    assert called(Toolbox(folder, [installed]), f"{installed}:go") == "installed"


def test_an_allowed_module_that_does_not_load_is_told_with_its_line(installed: str) -> None:
    toolbox = Toolbox(None, [f"{installed}.sick", "nothing_of_this_name"])
    assert "sick.py:2: ZeroDivisionError: division by zero" in refusal(toolbox, f"{installed}.sick:go")
    assert "No module named 'nothing_of_this_name'" in refusal(toolbox, "nothing_of_this_name:go")


def test_an_allowed_standard_module_gives_only_its_own_functions() -> None:
    toolbox = Toolbox(None, ["os"])
    assert "is only imported there, from 'posix'" in refusal(toolbox, "os:system")


def test_a_misspelt_module_is_told_with_the_nearest(folder: Path, write: Write) -> None:
    write("billing.py", BILLING)
    write("shop/orders.py", "def go() -> None: ...\n")
    assert "did you mean 'billing'?" in refusal(Toolbox(folder), "biling:charge_card")
    assert "did you mean 'shop.orders'?" in refusal(Toolbox(folder), "shop.order:go")
    assert "did you mean 'allowed.one'?" in refusal(Toolbox(None, ["allowed.one"]), "allowed.on:go")


def test_a_folder_that_is_not_there_has_no_tools(tmp_path: Path) -> None:
    toolbox = Toolbox(tmp_path / "none")
    assert toolbox.available() == sorted(builtins.BUILTINS)
    assert "there is no billing.py in the tools folder" in refusal(toolbox, "billing:go")


def test_what_is_available_is_listed_without_importing_anything(folder: Path, write: Write) -> None:
    write("billing.py", BILLING + "\nraise SystemExit('imported')\n")
    write("shop/__init__.py", "def opened() -> str: return 'yes'\n")
    write("shop/tax.py", "async def tax() -> None:\n    def inner() -> None: ...\n")
    write("broken.py", "def go(:\n")
    write("deep.py", "(" * 5000)
    write("binary.py", b"\xff\0")
    for private in ("_private.py", ".hidden/go.py", "__pycache__/go.py", "not-a-name.py", "notes.txt", "__init__.py"):
        write(private, "def go() -> None: ...\n")
    write("venv/pyvenv.cfg", "")
    write("venv/lib.py", "def go() -> None: ...\n")
    assert Toolbox(folder).available() == [
        *sorted(builtins.BUILTINS),
        "billing:charge_card",
        "billing:refund",
        "shop.tax:tax",
        "shop:opened",
    ]


def test_an_environment_inside_the_folder_is_left_to_python(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"library_{abs(hash(str(folder)))}"
    write(f"env/site/{name}/__init__.py", "VALUE = 1\n")
    monkeypatch.syspath_prepend(folder / "env" / "site")
    write("uses.py", f"import {name}\ndef go() -> int: return {name}.VALUE\n")
    toolbox = Toolbox(folder)
    assert called(toolbox, "uses:go") == 1
    library = sys.modules[name]
    write("uses.py", f"import {name}\ndef go() -> int: return {name}.VALUE + 10\n")
    assert called(toolbox, "uses:go") == 11
    assert sys.modules[name] is library
