"""Embedders: what turns text into 768 numbers whose angles say how near two texts are in meaning."""

from __future__ import annotations

from cirkelline.tools.embedding.contract import DIMENSIONS, Embedder, EmbedderUnavailable
from cirkelline.tools.embedding.pool import LABELS, EmbedderPool, labelled, preferred

__all__ = ["DIMENSIONS", "LABELS", "Embedder", "EmbedderPool", "EmbedderUnavailable", "labelled", "preferred"]
