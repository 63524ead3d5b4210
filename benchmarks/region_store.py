"""Random batches of region features: our store against UNITER's LMDB of the same content.

Both give what a fine-tuning step needs: features, padded, in float32, and the boxes' seven numbers. The LMDB is read as
the official `DetectFeatLmdb` does: every array of a record is unpacked by msgpack-numpy's rule, features and boxes
become float32, and the images are put into one padded tensor. Both files lie in the system's cache; the ways take turns
on the same images, and the first batch must be the same to the bit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import torch
from rows import median_and_spread, show_and_keep

from vltickets.data import RegionWriter, read_regions

Batch = tuple[torch.Tensor, torch.Tensor]


def packed(array: np.ndarray) -> dict[bytes, Any]:
    """Return what msgpack-numpy 0.4.8 writes for an array."""
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


def unpacked(record: dict[Any, Any]) -> Any:
    """Do what msgpack-numpy 0.4.8 does as `object_hook`."""
    if b"nd" not in record:
        return record
    return np.ndarray(buffer=record[b"data"], dtype=np.dtype(record[b"type"]), shape=record[b"shape"])


def write_both(folder: Path, images: int, boxes: int, width: int, classes: int) -> list[str]:
    """Write the same random regions into `folder/store` and `folder/lmdb`; return the images' names."""
    rng = np.random.default_rng(0)
    names = [f"coco_val2014_{number:012d}.npz" for number in range(images)]
    size = images * boxes * (width + classes + 7) * 2
    with (
        lmdb.open(str(folder / "lmdb"), map_size=2 * size + (1 << 24)) as database,
        RegionWriter(folder / "store", width=width, classes=classes) as writer,
    ):
        for name in names:
            low = rng.random((boxes, 2)) * 0.5
            corners = np.concatenate([low, low + 0.1 + rng.random((boxes, 2)) * 0.4], 1).astype(np.float16)
            arrays = {
                "features": rng.random((boxes, width), dtype=np.float32).astype(np.float16),
                "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1),
                "conf": rng.random((boxes, 1)).astype(np.float16),
                "soft_labels": rng.random((boxes, classes), dtype=np.float32).astype(np.float16),
            }
            value = msgpack.packb({key: packed(array) for key, array in arrays.items()}, use_bin_type=True)
            with database.begin(write=True) as writing:
                writing.put(name.encode(), value)
            writer.add(name, arrays["features"], corners, arrays["soft_labels"], arrays["conf"])
        with database.begin(write=True) as writing:
            writing.put(b"__keys__", json.dumps(names).encode())
    return names


def from_lmdb(reading: Any, names: list[str], rows: np.ndarray) -> Batch:
    """Read a batch the official way."""
    features, boxes = [], []
    for row in rows:
        record = msgpack.loads(reading.get(names[row].encode()), raw=False, object_hook=unpacked, strict_map_key=False)
        record = {key: array.astype(np.float32) for key, array in record.items()}
        features.append(torch.from_numpy(record["features"]))
        six = torch.from_numpy(record["norm_bb"])
        boxes.append(torch.cat([six, six[:, 4:5] * six[:, 5:]], dim=-1))
    longest = max(len(item) for item in features)
    out = torch.zeros(len(rows), longest, features[0].shape[1])
    for place, item in enumerate(features):
        out[place, : len(item)] = item
    places = torch.zeros(len(rows), longest, 7)
    for place, item in enumerate(boxes):
        places[place, : len(item)] = item
    return out, places


def main() -> None:
    """Measure, check that both read the same, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--boxes", type=int, default=36)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1601)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=40, help="batches of each way, turn about")
    parser.add_argument("--folder", type=Path, help="where to write the two files (default: the temporary folder)")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        folder = Path(made)
        names = write_both(folder, arguments.images, arguments.boxes, arguments.width, arguments.classes)
        regions = read_regions(folder / "store")
        sizes = {
            "lmdb": (folder / "lmdb" / "data.mdb").stat().st_size,
            "store": sum(path.stat().st_size for path in (folder / "store").iterdir()),
        }
        with lmdb.open(str(folder / "lmdb"), readonly=True, lock=False) as database, database.begin() as reading:
            ways: dict[str, Callable[[np.ndarray], Batch]] = {
                "lmdb": lambda rows: from_lmdb(reading, names, rows),
                "store": lambda rows: (regions.features.padded(rows)[0].float(), regions.boxes.padded(rows)[0]),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(arguments.rounds + 2):  # the first two only warm up
                rows = rng.integers(0, arguments.images, arguments.batch)
                batches = {}
                for name in sorted(ways, reverse=bool(number % 2)):
                    started = time.perf_counter()
                    batches[name] = ways[name](rows)
                    if number >= 2:
                        seconds[name].append(time.perf_counter() - started)
                if number == 0 and not torch.equal(batches["lmdb"][0], batches["store"][0]):
                    raise SystemExit("the two ways read different features")
                if number == 0 and (batches["lmdb"][1] - batches["store"][1]).abs().max() > 2e-3:
                    raise SystemExit("the two ways read different boxes")  # w and h are stored rounded in the LMDB
    rows_kept = []
    for name, measured in seconds.items():
        median, spread = median_and_spread([1e3 * value for value in measured])
        ratio, ratio_spread = median_and_spread([a / b for a, b in zip(seconds["lmdb"], measured, strict=True)])
        about = {"way": name, "images": arguments.images, "boxes": arguments.boxes, "width": arguments.width}
        about |= {"classes": arguments.classes, "batch": arguments.batch, "rounds": arguments.rounds}
        times = {"ms_a_batch": median, "ms_spread": spread, "times_faster": ratio, "times_faster_spread": ratio_spread}
        rows_kept.append({**about, **times, "megabytes": sizes[name] / 1e6})
    show_and_keep("region_store", rows_kept, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
