"""Frozen, typed values that describe work, their canonical JSON and hash. No torch, no files but recipes.

`Train` and `Prune` are the nodes of a study; `OneShot` and `RandomMask` are masks that need no training.
"""

from vltickets.specs.adversarial import Adversarial
from vltickets.specs.backbones import SIZES, Uniter, sized
from vltickets.specs.data import DataSpec, Folder, World
from vltickets.specs.nodes import (
    Fresh,
    Imported,
    MaskSource,
    Node,
    OneShot,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    Shipped,
    Shuffled,
    Start,
    Train,
    Trained,
    parents,
)
from vltickets.specs.parsing import node_from_json, parse, read_toml, with_setting
from vltickets.specs.spec import Spec, canonical, changed, hash_json
from vltickets.specs.tasks import (
    TASK_KINDS,
    Gqa,
    Matching,
    Nlvr1,
    Nlvr2,
    Objectives,
    Pretraining,
    Refcoco,
    Retrieval,
    SnliVe,
    TaskSpec,
    Vcr,
    Vqa,
)

__all__ = [
    "SIZES",
    "TASK_KINDS",
    "Adversarial",
    "DataSpec",
    "Folder",
    "Fresh",
    "Gqa",
    "Imported",
    "MaskSource",
    "Matching",
    "Nlvr1",
    "Nlvr2",
    "Node",
    "Objectives",
    "OneShot",
    "Pretraining",
    "Prune",
    "RandomMask",
    "Recipe",
    "Refcoco",
    "Retrieval",
    "Rewound",
    "Shipped",
    "Shuffled",
    "SnliVe",
    "Spec",
    "Start",
    "TaskSpec",
    "Train",
    "Trained",
    "Uniter",
    "Vcr",
    "Vqa",
    "World",
    "canonical",
    "changed",
    "hash_json",
    "node_from_json",
    "parents",
    "parse",
    "read_toml",
    "sized",
    "with_setting",
]
