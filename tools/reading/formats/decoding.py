"""From bytes to text, or to the verdict that they are none."""

from __future__ import annotations

import codecs
import contextlib
from typing import Any, Final

from cirkelline.tools.reading.contract import Verdict
from cirkelline.tools.reading.formats.draft import Refusal

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE: Final = 65_536
_CONTROLS: Final = bytes(each for each in range(32) if each not in b"\t\n\r\f\x1b") + b"\x7f"
_MOST_CONTROLS: Final = 0.005
_RTF: Final = b"{\\rtf"
_OFFICE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_WESTERN: Final = "cp1252"
_FEW: Final = 8  # letters beyond ASCII, of which statistics make Chinese as easily as Danish


def decoded(data: bytes, charset: str | None) -> str:
    """Return the text that some bytes are. Raises: Refusal where they are something else."""
    if data.lstrip()[: len(_RTF)] == _RTF:
        raise Refusal(Verdict.NOT_TEXT, "is an RTF document: save it as DOCX or as text")
    if data.startswith(_OFFICE):
        raise _office(data)
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace").removeprefix("\ufeff")
    if _is_binary(data):
        raise Refusal(Verdict.NOT_TEXT, f"is {_described(data)}, not text")
    return _utf8(data) or _declared(data, charset) or _guessed(data)


def _office(data: bytes) -> Refusal:
    """What DOCX is wrapped in when it has a password, and what Word wrote before there was DOCX."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return Refusal(Verdict.ENCRYPTED, "is encrypted: save a copy of it without a password")
    return Refusal(Verdict.NOT_TEXT, "is an Office document of the old kind: save it as DOCX or PDF")


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A file that is cut off within its last character is still UTF-8, if anything before says so.
        cut_off = error.start >= len(data) - 3 and not data[: error.start].isascii()
        return data[: error.start].decode() if cut_off else None


def _declared(data: bytes, charset: str | None) -> str | None:
    try:
        return data.decode(charset) if charset else None
    except (LookupError, UnicodeError, ValueError):  # a charset nobody knows, or one that is not what it says
        return None


def _guessed(data: bytes) -> str:
    import charset_normalizer  # noqa: PLC0415

    found = charset_normalizer.from_bytes(data[:_SAMPLE])
    best = found.best()
    # What the West's encoding reads as well as the best one is the West's; the two often differ in a letter or two.
    possible = {name for match in found for name in (match.encoding, *match.could_be_from_charset)}
    if best is None or _WESTERN in possible or _is_short_western(data):
        return data.decode(_WESTERN, "replace")
    return data.decode(best.encoding, "replace")


def _is_short_western(data: bytes) -> bool:
    high = bytes(each for each in data[:_SAMPLE] if each > 127)  # noqa: PLR2004 - beyond ASCII
    try:
        return len(high) <= _FEW and high.decode(_WESTERN).isalpha()
    except UnicodeDecodeError:
        return False


def _is_binary(data: bytes) -> bool:
    sample = data[:_SAMPLE]
    return b"\0" in sample or len(sample) - len(sample.translate(None, _CONTROLS)) > _MOST_CONTROLS * len(sample) + 1


def _described(data: bytes) -> str:
    import puremagic  # noqa: PLC0415

    magic: Any = puremagic  # its annotations are partial
    found: list[Any] = []
    with contextlib.suppress(puremagic.PureError, ValueError):
        found = magic.magic_string(data[:_SAMPLE])
    named: str = next((each.name for each in found if each.name and each.confidence >= 0.3), "")  # noqa: PLR2004
    return f"binary ({named})" if named else "binary"
