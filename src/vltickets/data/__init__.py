"""Readers of public formats, region features, tokens, and batches as a function of (seed, step). Knows no models."""

from vltickets.data.batches import BatchPlan, Groups, MixedPlan, batch_plan, cut_batches
from vltickets.data.captions import Captions
from vltickets.data.corpora import CORPORA, check_soft_labels, has_soft_labels, region_shape
from vltickets.data.inputs import Inputs, assemble, joined
from vltickets.data.nlvr2 import Pairs
from vltickets.data.questions import Questions
from vltickets.data.ragged import Ragged
from vltickets.data.refcoco import Expressions
from vltickets.data.region_import import import_regions
from vltickets.data.region_store import RegionWriter, verify_store
from vltickets.data.regions import Regions, read_regions, soft_targets
from vltickets.data.sources import Source, check_folder, open_folder, open_source, register_folder
from vltickets.data.streams import stream, stream_seed
from vltickets.data.vcr import Choices
from vltickets.data.vocabulary import Vocabulary
from vltickets.data.vqa import read_answer_table

__all__ = [
    "CORPORA",
    "BatchPlan",
    "Captions",
    "Choices",
    "Expressions",
    "Groups",
    "Inputs",
    "MixedPlan",
    "Pairs",
    "Questions",
    "Ragged",
    "RegionWriter",
    "Regions",
    "Source",
    "Vocabulary",
    "assemble",
    "batch_plan",
    "check_folder",
    "check_soft_labels",
    "cut_batches",
    "has_soft_labels",
    "import_regions",
    "joined",
    "open_folder",
    "open_source",
    "read_answer_table",
    "read_regions",
    "region_shape",
    "register_folder",
    "soft_targets",
    "stream",
    "stream_seed",
    "verify_store",
]
