"""RefCOCO's pickle is read as data: of Python 2 or 3, and with no code in it run."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vltickets.data import Source, Vocabulary, open_folder
from vltickets.data.refcoco import read_refcoco
from vltickets.data.vocabulary import SPECIALS
from vltickets.errors import UserError

WriteRegions = Callable[[Path, str, dict[str, int]], None]


@pytest.fixture
def source(official: Path) -> Source:
    return open_folder(official)


class Harm:
    """Its pickle, loaded, would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = source.folder / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps([Harm()], protocol=protocol))
    with pytest.raises(UserError, match=r"refs\(unc\).p: not a pickle of plain data .*mkdir: code, not data"):
        source.expressions("dev", "true")
    assert not (tmp_path / "harm").exists()


def test_a_pickle_of_python_2_is_read(source: Source) -> None:
    """Python 2 wrote texts as bytes: opcodes STRING and SHORT_BINSTRING, which `encoding` is for."""
    before = source.expressions("dev", "true")
    path = source.folder / "refcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    path.write_bytes(python2(refs))
    after = source.expressions("dev", "true")
    assert (after.ids, after.targets.tolist()) == (before.ids, before.targets.tolist())
    path.write_bytes(pickle.dumps(as_bytes(refs), protocol=2))  # bytes of Python 3 in that protocol
    assert source.expressions("dev", "true").ids == before.ids


def test_a_pickle_that_unfolds_without_end_is_refused_or_read_at_once(source: Source) -> None:
    path = source.folder / "refcoco" / "refs(unc).p"
    many: list[Any] = ["x"]
    for _ in range(12):
        many = [many] * 10  # 10^12 texts, were each list gone through wherever it stands
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    in_a_field = [{"split": "val", "image_id": many}]
    for value in (many, cyclic, in_a_field, [{("a", "b"): 1}], [{"split": "val", "image_id": 10**5000}]):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match=r"refs\(unc\).p"):
            source.expressions("dev", "true")


def python2(value: Any) -> bytes:
    """Return a pickle of plain data as Python 2 wrote it in protocol 0 (texts as STRING)."""
    out = io.BytesIO()

    def put(item: Any) -> None:
        if isinstance(item, dict):
            out.write(b"(d")
            for key, content in item.items():
                put(key)
                put(content)
                out.write(b"s")
        elif isinstance(item, list):
            out.write(b"(l")
            for content in item:
                put(content)
                out.write(b"a")
        elif isinstance(item, str):
            out.write(b"S" + repr(item).encode() + b"\n")
        else:
            out.write(f"I{item}\n".encode())

    put(value)
    return out.getvalue() + b"."


def as_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_bytes(key): as_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_bytes(item) for item in value]
    return value.encode() if isinstance(value, str) else value


@pytest.mark.shared
def test_the_public_sample_of_refcoco_is_read(shared: Path, tmp_path: Path, write_regions: WriteRegions) -> None:
    refs = json.loads((shared / "data" / "formats" / "refcoco" / "refs_unc_sample.json").read_text())
    write_regions(tmp_path, "gt_all", {"visual_grounding_coco_gt_000000581857.npz": 1})
    (tmp_path / "refs(unc).p").write_bytes(python2(refs))
    item = {"id": 1719310, "image_id": 581857, "bbox": [1, 2, 3, 4]}
    instances = {"images": [{"id": 581857, "width": 640, "height": 427}], "annotations": [item]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    data = read_refcoco(tmp_path, "train", "true", Vocabulary([*SPECIALS, "lady", "with"]), 60)
    assert (data.ids, data.targets.tolist()) == ([0, 1, 2], [0, 0, 0])
