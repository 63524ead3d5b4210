"""What killed writers left behind: half-written folders, and checkpoints of what is finished."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from vltickets.store.store import Store

OLD_SECONDS = 3600.0  # an import writes without a lease: its folder may be half-written because it is at it


def tidy(store: Store) -> None:
    """Remove them, and nothing of a node that another process is at."""
    left: dict[str, list[Path]] = defaultdict(list)
    for folder in ("runs", "weights"):
        for path in (store.root / folder).glob(".*"):  # .DIGEST.unique
            with suppress(FileNotFoundError):  # its writer is done
                if time.time() - path.stat().st_mtime > OLD_SECONDS:
                    left[path.name.split(".")[1]].append(path)
    for path in (store.root / "work").glob("*"):
        # Both: a training that was imported is run again for its weights alone.
        if (store.root / "runs" / path.name / "record.json").exists() and (store.root / "weights" / path.name).exists():
            left[path.name].append(path)
    for digest, paths in left.items():
        with store.lease(digest) as mine:
            for path in paths if mine else ():
                shutil.rmtree(path, ignore_errors=True)
