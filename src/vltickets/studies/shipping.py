"""Trained backbone weights as small files that travel with the package, beside the record of how they came."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from vltickets.specs import Train
from vltickets.store import Store, sha256, write_file


def write_weights(store: Store, node: Train, path: Path, *, recipe: str) -> int:
    """Write the backbone of a finished training as fp16 safetensors, and beside it a JSON record; return the bytes.

    The record holds the run's digest and specification, recipe, metrics, learning curve, machine and the file's hash.
    """
    weights = {
        name.removeprefix("backbone."): value.astype(np.float16)
        for name, value in store.weights(node.digest).items()
        if name.startswith("backbone.")
    }
    content = save(weights, {"run": node.digest})
    record = store.record(node.digest)
    about = {
        "run": node.digest,
        "recipe": recipe,
        "command": f"vltickets weights make {recipe}",
        "sha256": sha256(content),
        "metrics": record.metrics,
        "curve": record.curve,
        "seconds": record.seconds,
        "machine": record.machine,
        "spec": record.spec,
    }
    write_file(path, content)
    write_file(path.with_suffix(".json"), json.dumps(about, indent=1).encode())
    return len(content)
