"""The caption corpora of UNITER's pre-training, in their official files or in UNITER's text databases.

COCO's captions, Visual Genome's region descriptions, Conceptual Captions and SBU; docs/data.md says how their folders
are laid out and how their images are named. Sources: official-models 2 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from vltickets.data.captions import Captions, read_coco_captions
from vltickets.data.karpathy import read_karpathy
from vltickets.data.questions import split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import check_text, field, first_file, number_field, read_json, shown
from vltickets.data.regions import Regions
from vltickets.data.text_db import TextDatabase, open_database
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError, unknown
from vltickets.specs import Pixels

SPLITS = ("train", "dev")
CHUNK = 50_000  # captions made into numbers at once: a corpus has millions, and as Python objects they'd fill gigabytes
GENOME_DEV = 50  # an image of Visual Genome whose number this divides is dev: 2 %, about UNITER's share
SBU_DEV = 100  # a caption of SBU whose number this divides is dev: 1 %, UNITER's share

Text = TypeVar("Text", str, list[int])
Find = Callable[[Path, str], Iterator[tuple[str, str, str]]]  # (file, split) -> where, caption, image's name


@dataclass(frozen=True)
class Corpus:
    """How a corpus lies on disk. `databases`: split -> UNITER's text databases, read together.

    `files`: split -> its public files, of which the first that is there is read, by `find`; COCO's have readers of
    their own. `links_die`: the images must be fetched one by one from the web, so that nobody has all of them; a
    caption without its image is then left out.
    """

    folder: str
    databases: dict[str, tuple[str, ...]]
    files: dict[str, tuple[str, ...]]
    find: Find | None
    links_die: bool = False


def read_corpus(
    folder: Path, name: str, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Read a split (`train` or `dev`) of a corpus out of its folder, each caption cut to `longest` numbers.

    UNITER's text databases go before public files. Captions that say nothing, and in corpora whose links die those
    without an image, are left out and counted. Raises `UserError` naming file, record and field where something is
    broken, and where no caption is left.
    """
    corpus = CORPORA[name]
    names = ["all", split, *(["val"] if split == "dev" else [])]
    if databases := _open_databases(folder, corpus, split, vocabulary):
        regions, where = split_regions(folder, names, pixels), databases[0].path
        return _packed(_of_databases(databases, longest), list, regions, corpus.links_die, f"{where} ({split})")
    if corpus.find is None:
        return _read_coco(folder, split, vocabulary, longest, pixels)
    if split not in SPLITS:
        raise unknown(f"split of the corpus {name}", split, SPLITS)
    path = first_file(folder, corpus.files[split])
    if not path.exists():
        wanted = " or ".join((*corpus.files[split], *(f"{database}.db" for database in corpus.databases[split])))
        raise UserError(f"{path}: no such file; the split {split} of the corpus {name} is read from {wanted}")

    def code(texts: list[str]) -> list[list[int]]:
        return vocabulary.encode(texts, longest)

    return _packed(
        corpus.find(path, split), code, split_regions(folder, names, pixels), corpus.links_die, f"{path} ({split})"
    )


def region_shape(corpora: Mapping[str, Captions]) -> tuple[int, int]:
    """Return the width of a region's feature and the number of classes, which one model needs to be alike everywhere.

    A corpus without soft labels has any number of classes. Raises `UserError` that names two corpora that differ.
    """
    first = next(iter(corpora))
    width, labelled = corpora[first].regions.width, ""
    for name, data in corpora.items():
        regions = data.regions
        if regions.width != width:
            raise UserError(
                f"the corpus {name} has {regions.width} numbers a region ({regions.where}), the corpus {first} has "
                f"{width} ({corpora[first].regions.where}); take the features of one detector for all corpora"
            )
        if not regions.classes:
            continue
        labelled = labelled or name
        classes = corpora[labelled].regions.classes
        if regions.classes != classes:
            raise UserError(
                f"the corpus {name} has soft labels of {regions.classes} classes ({regions.where}), the corpus "
                f"{labelled} of {classes} ({corpora[labelled].regions.where}); take the features of one detector "
                "for all corpora"
            )
    return width, corpora[labelled].regions.classes if labelled else 0


def has_soft_labels(data: Captions) -> bool:
    """Has the first caption's image soft labels that say something? Then all have: a store has them or has none."""
    return data.regions.classes > 1 and bool(data.regions.soft_labels.row(int(data.images[0])).any())


def check_soft_labels(corpora: Mapping[str, Captions], objective: str) -> None:
    """Raise `UserError` where a corpus' regions have no soft labels, from which `objective` would learn.

    A store has none where its source had none: 0 classes, or nothing but zeros (looked at in the first image).
    """
    for name, data in corpora.items():
        regions = data.regions
        if not has_soft_labels(data):
            raise UserError(
                f"the objective {objective} needs the detector's soft labels, but the regions of the corpus {name} "
                f"({regions.where}) have none; import features that have them, or set the objective's ratio to 0"
            )


def _packed(
    found: Iterator[tuple[str, Text, str]],
    code: Callable[[list[Text]], list[list[int]]],
    regions: Regions,
    links_die: bool,
    where: str,
) -> Captions:
    """Return what is found as a split, made into numbers chunk by chunk."""
    parts: list[Ragged] = []
    images: list[np.ndarray] = []
    seen, asked = 0, ""
    while chunk := list(islice(found, CHUNK)):
        seen, asked = seen + len(chunk), asked or chunk[0][2]
        kept = [item for item in chunk if item[1] and not (links_die and item[2] not in regions)]
        images.append(np.array([regions.index(image, place) for place, _, image in kept], dtype=np.int64))
        parts.append(Ragged.from_rows(code([text for _, text, _ in kept])))
    count = sum(map(len, images))
    if not count:
        reason = f"none of its {seen} captions has an image in {regions.where}, which should name them as {asked!r}"
        raise UserError(f"{where}: {reason if seen else 'it holds no caption of this split'}; see docs/data.md")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    texts = Ragged(np.concatenate([part.values.numpy() for part in parts]), offsets)
    return Captions(texts, np.concatenate(images), None, regions, left_out=seen - count)


def _open_databases(folder: Path, corpus: Corpus, split: str, vocabulary: Vocabulary) -> list[TextDatabase]:
    """Return the split's text databases, or none where the folder has none of any split.

    Where it has some of them, all are needed: a split half of which is missing, or one taken from the public files
    that shares captions with the other, would be trained on without a word.
    """
    there = [name for names in corpus.databases.values() for name in names if (folder / f"{name}.db").is_dir()]
    if not there:
        return []
    if split not in corpus.databases:
        raise unknown(f"split of {folder}", split, corpus.databases)
    for name in corpus.databases[split]:
        if name not in there:
            raise UserError(
                f"{folder / name}.db: no such text database, but {there[0]}.db is there; the split {split} needs "
                f"{' and '.join(f'{name}.db' for name in corpus.databases[split])}"
            )
    return [open_database(folder / f"{name}.db", vocabulary) for name in corpus.databases[split]]


def _of_databases(databases: list[TextDatabase], longest: int) -> Iterator[tuple[str, list[int], str]]:
    for database in databases:
        for where, identity, record in database.records():
            yield where, database.coded(record, longest, where), database.image(identity, where)


def _read_coco(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Read COCO's public files; where Karpathy's is there, its split, which is UNITER's: train with restval."""
    karpathy = folder / "dataset_coco.json"
    if karpathy.exists():
        return read_karpathy(karpathy, split, vocabulary, longest, pixels)
    return read_coco_captions(folder, split, vocabulary, longest, pixels)


def _find_genome(path: Path, split: str) -> Iterator[tuple[str, str, str]]:
    """Find the phrases of `region_descriptions.json`; their boxes are not read (some lie outside the image)."""
    images = read_json(path)
    if not isinstance(images, list):
        raise UserError(f"{path}: expected a list of images, found {type(images).__name__}")
    for number, item in enumerate(images):
        for rank, region in enumerate(field(item, "regions", list, f"{path}, image {number}")):
            where = f"{path}, image {number}, region {rank}"
            image = number_field(region, "image_id", where)
            phrase = _said(field(region, "phrase", str, where), f"{where}: the field 'phrase'")
            if (split == "dev") == (image % GENOME_DEV == 0):
                yield where, phrase, f"vg_{image}.npz"


def _find_conceptual(path: Path, split: str) -> Iterator[tuple[str, str, str]]:
    """Find the captions of a file of lines: caption, tab, url."""
    name = {"train": "train", "dev": "val"}[split]
    for number, line in _lines(path):
        where, columns = f"{path}, line {number}", line.split("\t")
        if len(columns) != 2:
            raise UserError(f"{where}: expected a caption, a tab and a url, found {len(columns)} columns")
        yield where, _said(columns[0], f"{where}: the caption"), f"gcc_{name}_{number:012d}.npz"


def _find_sbu(path: Path, split: str) -> Iterator[tuple[str, str, str]]:
    """Find the captions of `sbu-captions-all.json`, or of the older pair of text files."""
    for number, (where, caption) in enumerate(_sbu_json(path) if path.suffix == ".json" else _sbu_pair(path), 1):
        if (split == "dev") == (number % SBU_DEV == 0):
            yield where, caption, f"sbu_{number:012d}.npz"


def _sbu_json(path: Path) -> Iterator[tuple[str, str]]:
    content = read_json(path)
    captions, urls = (field(content, name, list, str(path)) for name in ("captions", "image_urls"))
    if len(captions) != len(urls):
        raise UserError(f"{path}: {len(captions)} 'captions' but {len(urls)} 'image_urls', expected as many")
    for number, caption in enumerate(captions, 1):
        where = f"{path}, caption {number}"
        if not isinstance(caption, str):
            raise UserError(f"{where}: the field 'captions' has {shown(caption)}, expected a text")
        yield where, _said(caption, f"{where}: the field 'captions'")


def _sbu_pair(path: Path) -> Iterator[tuple[str, str]]:
    urls = path.with_name(path.name.replace("_captions", "_urls"))
    there, count = sum(1 for _ in _lines(urls)), 0
    for count, caption in _lines(path):
        yield f"{path}, line {count}", _said(caption, f"{path}, line {count}: the caption")
    if count != there:
        raise UserError(f"{path} has {count} lines, but {urls} has {there}; expected as many: one of them was cut off")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines with their numbers from 1; only a line feed ends a line."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None


def _said(text: str, what: str) -> str:
    """Return a caption, or nothing where it says nothing: among millions written by a crowd that is no broken file."""
    return check_text(text, what) if text.strip() else ""


CORPORA = {
    "coco": Corpus(
        folder="captions",
        databases={"train": ("pretrain_coco_train", "pretrain_coco_restval"), "dev": ("pretrain_coco_val",)},
        files={},
        find=None,
    ),
    "vg": Corpus(
        folder="visual_genome",
        databases={"train": ("pretrain_vg_train",), "dev": ("pretrain_vg_val",)},
        files=dict.fromkeys(SPLITS, ("region_descriptions.json",)),
        find=_find_genome,
    ),
    "cc": Corpus(
        folder="conceptual_captions",
        databases={"train": ("conceptual_caption_train",), "dev": ("conceptual_caption_val",)},
        files={"train": ("Train_GCC-training.tsv",), "dev": ("Validation_GCC-1.1.0-Validation.tsv",)},
        find=_find_conceptual,
        links_die=True,
    ),
    "sbu": Corpus(
        folder="sbu",
        databases={"train": ("sbu_caption_train",), "dev": ("sbu_caption_val",)},
        files=dict.fromkeys(SPLITS, ("sbu-captions-all.json", "SBU_captioned_photo_dataset_captions.txt")),
        find=_find_sbu,
        links_die=True,
    ),
}
