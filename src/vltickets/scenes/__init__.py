"""The embedded world: scenes of coloured objects, what a detector finds in them, and what is said of them.

Files, in the public data sets' own formats (each folder argument is the root; the functions name what they write):

- `write_captions`, `write_vqa`, `write_nlvr2`, `write_gqa`, `write_vcr`, `write_entailment`: text, labels and regions
  of one split.
- `write_refcoco`, `write_retrieval`: the same of all splits at once.
- `write_vocabulary`: every word of the grammar.
  With `pictures=True`, all of these but `write_vcr` write the drawn scenes too.
- `REGION_WIDTH`, `REGION_CLASSES`: width of a region's features and number of its classes.
- `WORLD_VERSION`: raised whenever any output changes.

Pieces:

- `sample_scene`, `Scene`, `SceneObject`: scenes; `draw`: their pictures; `detect`, `Regions`: their regions.
- `Description` and the statements of one scene, each with `holds(scene)`: `Exists`, `CountIs`, `Relation`,
  `HasAttribute`, `CompareCounts`, `SameAttribute`, and `Caption`, several at once.
- Statements of two scenes, each with `holds(left, right)`: `InPictures`, `ComparePictures`, `TotalIs`.
- `retrieval_ceiling`: what a reader of the structures could score in retrieval.
- Questions, each with `answer(scene)`: `AskWhether`, `AskCount`, `AskAttribute`.

Everything is a function of (arguments, seed, split): the same call writes the same bytes.
"""

from pathlib import Path

from vltickets.scenes.captions import write_captions
from vltickets.scenes.drawing import draw
from vltickets.scenes.entailment import write_entailment
from vltickets.scenes.gqa import write_gqa
from vltickets.scenes.grammar import vocabulary
from vltickets.scenes.nlvr2 import write_nlvr2
from vltickets.scenes.pairs import ComparePictures, InPictures, TotalIs
from vltickets.scenes.questions import AskAttribute, AskCount, AskWhether
from vltickets.scenes.refcoco import write_refcoco
from vltickets.scenes.regions import CLASS_COLORS, REGION_CLASSES, REGION_WIDTH, Regions, detect
from vltickets.scenes.retrieval import retrieval_ceiling, write_retrieval
from vltickets.scenes.statements import (
    Caption,
    CompareCounts,
    CountIs,
    Description,
    Exists,
    HasAttribute,
    Relation,
    SameAttribute,
)
from vltickets.scenes.vcr import write_vcr
from vltickets.scenes.vqa import write_vqa
from vltickets.scenes.world import WORLD_VERSION, Scene, SceneObject, sample_scene
from vltickets.store import write_file

__all__ = [
    "CLASS_COLORS",
    "REGION_CLASSES",
    "REGION_WIDTH",
    "WORLD_VERSION",
    "AskAttribute",
    "AskCount",
    "AskWhether",
    "Caption",
    "CompareCounts",
    "ComparePictures",
    "CountIs",
    "Description",
    "Exists",
    "HasAttribute",
    "InPictures",
    "Regions",
    "Relation",
    "SameAttribute",
    "Scene",
    "SceneObject",
    "TotalIs",
    "detect",
    "draw",
    "retrieval_ceiling",
    "sample_scene",
    "write_captions",
    "write_entailment",
    "write_gqa",
    "write_nlvr2",
    "write_refcoco",
    "write_retrieval",
    "write_vcr",
    "write_vocabulary",
    "write_vqa",
]


def write_vocabulary(folder: Path) -> None:
    """Write `vocab.txt` under `folder`: the special tokens, then every word of the grammar, sorted, one a line."""
    write_file(folder / "vocab.txt", "".join(f"{word}\n" for word in vocabulary()).encode())
