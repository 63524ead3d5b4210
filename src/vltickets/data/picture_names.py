"""What pictures are called: readers ask by the names of region stores, files are called as they were downloaded.

A file that is called by a number alone says nothing of its data set, and numbers of several data sets overlap. So a
number stands for a picture of the set whose sub-folder it lies in, or, in a task's own folder, of the task's set in
that set's own spelling. Anything looser would find, where a picture is missing, that of another data set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Sub-folders as downloads have them: VG_100K_2, flickr30k-images, train2017.
SET_FOLDER = re.compile(r"(coco|vg|flickr30k|sbu|gcc_train|gcc_val)(?:[-_].*)?|(?:train|val|test)20\d\d")
COCO_SPLIT = re.compile(r"coco_[a-z]+\d*")
UNPADDED = ("flickr30k", "sbu")  # their names in region stores have zeros before the number, their files have not


def known_as(stem: str, folders: Sequence[str] = ()) -> str:
    """Return what a picture is found by: its name without ending in small letters, or SET/NUMBER.

    `folders` are the sub-folders it lies in.

    >>> known_as("COCO_val2014_000000000042")
    'coco_val2014_000000000042'
    >>> known_as("42", ["VG_100K_2"]), known_as("000000000042", ["images", "val2017"])
    ('vg/42', 'coco/42')
    """
    name = stem.removesuffix(".npz").lower()
    found = [match for folder in folders if (match := SET_FOLDER.fullmatch(folder.lower()))]
    if not found or "_" in name:
        return name
    return f"{found[-1][1] or 'coco'}/{_plain(name)}"


def candidates(name: str, *, own: bool = True) -> tuple[str, ...]:
    """Return what the picture of a region store's name may be found by; a number alone only in a task's `own` folder.

    >>> candidates("coco_val2014_000000000042.npz")
    ('coco_val2014_000000000042', 'coco/42', '000000000042')
    >>> candidates("flickr30k_000000000042.npz")
    ('flickr30k_000000000042', 'flickr30k/42', '000000000042', '42')
    >>> candidates("vg_n42.npz", own=False), candidates("nlvr2_dev-0-1-img0.npz")
    (('vg_n42', 'vg/n42'), ('nlvr2_dev-0-1-img0', 'dev-0-1-img0'))
    """
    stem = name.removesuffix(".npz").lower()
    head, _, last = stem.rpartition("_")
    if head == "nlvr2":
        return stem, last
    group = "coco" if COCO_SPLIT.fullmatch(head) else head
    if not SET_FOLDER.fullmatch(group):
        return (stem,)
    found = [stem, f"{group}/{_plain(last)}"]
    if own and not group.startswith("gcc"):  # lines of two files, both counted from 1
        found += [last, _plain(last)] if group in UNPADDED else [last]
    return tuple(dict.fromkeys(found))


def _plain(name: str) -> str:
    """Return a number without zeros before it, anything else as it is."""
    return str(int(name)) if name.isdecimal() and len(name) < 19 else name
