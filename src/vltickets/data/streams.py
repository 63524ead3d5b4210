"""Random streams named by what they are for, so that one never shifts another."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(*parts: str | int) -> int:
    """Return a 63-bit seed for the stream of these names and numbers: (task, seed, purpose, step …).

    Masks, initialisations and hashes are never among the parts: a dense model and a ticket of one seed see the same
    batches and the same fresh head, and can be compared pair by pair.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(*parts: str | int) -> np.random.Generator:
    """Return a NumPy generator for the stream of these names and numbers."""
    return np.random.Generator(np.random.PCG64(stream_seed(*parts)))
