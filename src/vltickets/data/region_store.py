"""STAND-IN, replaced at the merge by the branch "store": the same interface, one file an image, then one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from safetensors.numpy import save_file

from vltickets.data.regions import REGIONS_FORMAT


class RegionWriter:
    """Write regions image by image."""

    def __init__(self, path: Path, *, width: int, classes: int) -> None:
        self.path, self.width, self.classes = path, width, classes
        self.partial = path.with_name(path.name + ".partial")
        self.partial.mkdir(parents=True, exist_ok=True)
        self.names = [str(np.load(file)["name"]) for file in sorted(self.partial.glob("*.npz"))]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def add(
        self,
        name: str,
        features: np.ndarray,
        boxes: np.ndarray,
        soft_labels: np.ndarray,
        scores: np.ndarray | None = None,
    ) -> None:
        """Store one image."""
        file = self.partial / f"{len(self.names):08d}"
        with file.with_suffix(".tmp").open("wb") as out:
            np.savez(out, name=name, features=features, boxes=boxes, soft_labels=soft_labels)
        file.with_suffix(".tmp").rename(file.with_suffix(".npz"))
        self.names.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        items = [np.load(file) for file in sorted(self.partial.glob("*.npz"))]
        arrays: dict[str, np.ndarray] = {
            "features": np.concatenate([item["features"] for item in items]).astype(np.float16),
            "boxes": np.concatenate([item["boxes"] for item in items]).astype(np.float32),
            "soft_labels": np.concatenate([item["soft_labels"] for item in items]).astype(np.float16),
            "offsets": np.cumsum([0, *(len(item["boxes"]) for item in items)]).astype(np.int64),
        }
        whole = self.path.with_name(self.path.name + ".whole")
        save_file(arrays, whole, {"format": REGIONS_FORMAT, "names": json.dumps(self.names)})
        content = whole.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()  # the library's order is random
        header += b" " * (-len(header) % 8)
        whole.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
        whole.rename(self.path)
        shutil.rmtree(self.partial)
