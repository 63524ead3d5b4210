"""Scores of single tasks, worked by hand: overlaps, ties, ranks, candidates, transport."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from vltickets.backbones import build_backbone
from vltickets.data import Choices, Inputs, Ragged, Vocabulary
from vltickets.specs import Uniter
from vltickets.tasks.ranking import recalls
from vltickets.tasks.refcoco import OVERLAP, RegionHead, overlap
from vltickets.tasks.retrieval import rank_loss
from vltickets.tasks.transport import transport_distance, transport_plan
from vltickets.tasks.vcr import candidate_texts, chosen

TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)


def test_overlap_counts_the_last_pixel_in_the_intersection_only() -> None:
    first = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], dtype=float)
    second = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 5, 5], [10, 0, 10, 10]], dtype=float)
    # alike; half shared: 50 of 150; apart; side by side: the last pixel of one is before the first of the other
    assert overlap(first, second).tolist() == pytest.approx([1.0, 50 / 150, 0.0, 0.0])


def test_a_box_that_shares_exactly_half_is_wrong() -> None:
    true = np.array([[0, 0, 10, 10]], dtype=float)
    half = np.array([[0, 0, 10, 5]], dtype=float)
    assert overlap(half, true)[0] == OVERLAP
    assert not overlap(half, true)[0] > OVERLAP


def test_padding_never_wins_among_regions() -> None:
    head = RegionHead(4, 2)
    scores = head(torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]]))
    assert scores[0, 2] == scores[1, 1] == scores[1, 2] == -1e4
    assert scores.argmax(1)[1] == 0


def test_a_candidate_must_win_alone() -> None:
    scores = np.array([[0.1, 0.9, 0.2, 0.3], [0.5, 0.5, 0.1, 0.2], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    assert chosen(scores).tolist() == [1, -1, -1, 3]


def test_recall_of_images_and_of_any_own_text() -> None:
    # 4 captions, 2 images; captions 0 and 1 are of image 0, captions 2 and 3 of image 1
    table = np.array([[0.9, 0.1], [0.2, 0.6], [0.8, 0.7], [0.3, 0.4]], dtype=np.float32)
    own = np.array([0, 0, 1, 1])
    found = recalls(table, own, (1, 2))
    assert found["ir@1"].tolist() == [1, 0, 0, 1]
    assert found["ir@2"].tolist() == [1, 1, 1, 1]
    # image 0: its best own caption 0.9 beats 0.8 and 0.3; image 1: its best own 0.7 beats 0.1 and 0.6
    assert found["tr@1"].tolist() == [1, 1]
    table[1, 1] = 0.75  # now a foreign caption is better than image 1's own
    assert recalls(table, own, (1, 2))["tr@1"].tolist() == [1, 0]
    assert recalls(table, own, (1, 2))["tr@2"].tolist() == [1, 1]


def test_a_model_that_scores_all_pairs_alike_finds_nothing() -> None:
    found = recalls(np.zeros((6, 3), dtype=np.float32), np.array([0, 0, 1, 1, 2, 2]), (1,))
    assert found["ir@1"].sum() == found["tr@1"].sum() == 0


def test_the_rank_loss_is_a_margin_on_sigmoids() -> None:
    scores = torch.tensor([[0.0, 0.0, -50.0], [50.0, 0.0, -50.0]])
    assert torch.allclose(rank_loss(scores, 0.2), torch.tensor([[0.2, 0.0], [0.0, 0.0]]), atol=1e-6)


def vocabulary() -> Vocabulary:
    return Vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijkl"])


def test_candidates_have_the_official_layout_and_types() -> None:
    words = vocabulary()
    a, b, c, d, e, f, g, h, i, j = range(5, 15)
    data = Choices(
        ids=["train-0"],
        questions=Ragged.from_rows([[a, b]]),
        answers=Ragged.from_rows([[c], [d, d], [e], [f]]),
        rationales=Ragged.from_rows([[g], [h], [i, i], [j]]),
        answer_labels=np.array([1]),
        rationale_labels=np.array([2]),
        objects=None,  # type: ignore[arg-type]
        object_images=np.array([0]),
        detected=None,  # type: ignore[arg-type]
        detected_images=np.array([0]),
    )
    texts, types = candidate_texts(data, words)
    cls, sep = words.cls, words.sep
    assert len(texts) == 8
    assert texts.row(1).tolist() == [cls, a, b, sep, d, d, sep]
    assert types.row(1).tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert texts.row(6).tolist() == [cls, a, b, sep, d, d, sep, i, i, sep]  # rationales stand under the right answer
    assert types.row(6).tolist() == [0, 0, 0, 2, 2, 2, 3, 3, 3, 3]


def test_token_types_change_what_words_are() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(TOY, vocabulary=20, region_width=5, dropout=0.0, type_count=4).eval()
    backbone.initialise(torch.Generator().manual_seed(0), 0.2)
    inputs = batch(2, 6, 3)
    plain = backbone(inputs).sequence
    zeros = backbone(replace_types(inputs, torch.zeros_like(inputs.tokens))).sequence
    others = backbone(replace_types(inputs, torch.full_like(inputs.tokens, 3))).sequence
    assert torch.equal(plain, zeros)
    assert not torch.allclose(plain, others)


@torch.no_grad()
def test_pooling_made_embeddings_equals_the_whole_pass() -> None:
    backbone = build_backbone(TOY, vocabulary=20, region_width=5, dropout=0.1).eval()
    backbone.initialise(torch.Generator().manual_seed(0), 0.2)
    inputs = batch(3, 6, 4)
    joint = torch.cat([backbone.embeddings(inputs.tokens), backbone.embed_regions(inputs)], 1)
    mask = torch.cat([inputs.token_mask, inputs.region_mask], 1)
    assert torch.allclose(backbone.pool_embedded(joint, mask), backbone(inputs).pooled, atol=1e-6)


def batch(rows: int, words: int, regions: int) -> Inputs:
    token_mask = torch.ones(rows, words, dtype=torch.bool)
    token_mask[0, words - 2 :] = False
    return Inputs(
        tokens=torch.randint(5, 20, (rows, words)),
        token_mask=token_mask,
        features=torch.randn(rows, regions, 5),
        boxes=torch.rand(rows, regions, 7),
        region_mask=torch.ones(rows, regions, dtype=torch.bool),
        region_types=torch.ones(rows, regions, dtype=torch.int64),
    )


def replace_types(inputs: Inputs, types: torch.Tensor) -> Inputs:
    return Inputs(**{**vars(inputs), "token_types": types})


def test_the_plan_moves_even_masses_and_comes_near_the_cheapest() -> None:
    torch.manual_seed(0)
    words, regions = torch.randn(1, 4, 8), torch.randn(1, 3, 8)
    masks = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    cost = 1 - nn.functional.normalize(words, dim=-1) @ nn.functional.normalize(regions, dim=-1).mT
    plan = transport_plan(cost, *masks, beta=0.5, iterations=500)[0]
    assert torch.allclose(plan.sum(1), torch.full((4,), 1 / 4), atol=1e-3)
    assert torch.allclose(plan.sum(0), torch.full((3,), 1 / 3), atol=1e-3)
    rows = np.kron(np.eye(4), np.ones(3)), np.kron(np.ones(4), np.eye(3))
    best = linprog(cost[0].flatten().numpy(), A_eq=np.vstack(rows), b_eq=[1 / 4] * 4 + [1 / 3] * 3).fun
    assert float((plan * cost[0]).sum()) == pytest.approx(best, abs=5e-3)


def test_padding_takes_no_part_in_the_distance() -> None:
    torch.manual_seed(0)
    words, regions = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    word_mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    region_mask = torch.tensor([[True] * 4, [True, True, False, False]])
    both = transport_distance(words, word_mask, regions, region_mask)
    alone = transport_distance(words[1:, :3], word_mask[1:, :3], regions[1:, :2], region_mask[1:, :2])
    assert both[1] == pytest.approx(float(alone[0]), abs=1e-5)


def test_the_gradient_goes_through_the_cost_alone() -> None:
    torch.manual_seed(0)
    words = torch.randn(1, 4, 8, requires_grad=True)
    masks = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    regions = torch.randn(1, 3, 8)
    transport_distance(words, masks[0], regions, masks[1]).sum().backward()
    assert words.grad is not None
    by_hand = words.detach().clone().requires_grad_()
    cost = 1 - nn.functional.normalize(by_hand, dim=-1) @ nn.functional.normalize(regions, dim=-1).mT
    (cost * transport_plan(cost.detach(), *masks, beta=0.5, iterations=50)).sum().backward()
    assert torch.allclose(words.grad, by_hand.grad, atol=1e-6)


def test_transport_is_in_full_precision_under_mixed_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    words, regions = (torch.randn(2, n, 8, generator=generator) for n in (5, 3))
    masks = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    whole = transport_distance(words, masks[0], regions, masks[1])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = transport_distance(words, masks[0], regions, masks[1])
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, whole)
