"""A compiled model answers as the model it was made from, whatever its shape, its density and the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import vltickets
from vltickets.backbones import build_backbone
from vltickets.backbones.uniter import Encoder, UniterBackbone, initialise_module, padding_bias
from vltickets.data import Inputs, Source
from vltickets.deploy import SparseEncoder, Target, compile_sparse, host_target, processor
from vltickets.deploy.jit import AVX2
from vltickets.deploy.norm import TiledNorm
from vltickets.errors import UserError
from vltickets.specs import Lxmert, Recipe, Uniter, Vilt, Vqa, World
from vltickets.tasks import Model, Task, build_task
from vltickets.training import evaluate, train

Build = Callable[..., tuple[Model, Task]]
TARGETS: dict[str, Target | None] = {"torch": None}
if host_target() is not None:
    TARGETS |= {"host": host_target()}
    if processor().avx2:
        TARGETS |= {"avx2": AVX2, "four": Target("haswell", "", lanes=4)}  # as many floats as NEON has
each_way = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def prune_(module: nn.Module, density: float, random: torch.Generator) -> None:
    """Fill a module at random, norms and biases too, and set a share of its matrices' weights to 0."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(0, 1 if "orm" in name else 1 / weight.shape[-1] ** 0.5, generator=random)
            if weight.ndim == 2:
                weight.mul_(torch.rand(weight.shape, generator=random) < density)


def encoder_of(spec: Uniter, density: float, seed: int = 0) -> Encoder:
    encoder = Encoder(spec, dropout=0.1).eval()
    prune_(encoder, density, torch.Generator().manual_seed(seed))
    return encoder


def uniter(density: float = 0.3) -> UniterBackbone:
    spec = Uniter(layers=2, hidden=32, heads=2, intermediate=96, positions=40)
    backbone = build_backbone(spec, vocabulary=50, region_width=8, dropout=0.1).eval()
    assert isinstance(backbone, UniterBackbone)
    prune_(backbone, density, torch.Generator().manual_seed(0))
    return backbone


def batch(words: list[int], regions: list[int], random: torch.Generator) -> Inputs:
    """Return examples of these lengths, padded."""

    def mask(lengths: list[int]) -> Tensor:
        return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    shape = len(regions), max(regions)
    return Inputs(
        tokens=torch.randint(1, 50, (len(words), max(words)), generator=random),
        token_mask=mask(words),
        features=torch.randn(*shape, 8, generator=random),
        boxes=torch.rand(*shape, 7, generator=random),
        region_mask=mask(regions),
        region_types=torch.ones(shape, dtype=torch.int64),
    )


@each_way
@settings(max_examples=20)
@given(
    layers=st.integers(1, 3), heads=st.integers(1, 4), width=st.integers(1, 40), wide=st.integers(1, 300),
    density=st.floats(0.05, 1), lengths=st.lists(st.integers(1, 150), min_size=1, max_size=6),
    threads=st.integers(1, 3), minimum=st.sampled_from([None, 0.0, 0.5, 2.0]), seed=st.integers(0, 99),
)  # fmt: skip
@example(layers=1, heads=1, width=1, wide=1, density=1, lengths=[1], threads=1, minimum=0.0, seed=0)
@example(layers=2, heads=12, width=64, wide=3072, density=0.1, lengths=[1], threads=1, minimum=None, seed=0)
@example(layers=2, heads=2, width=16, wide=64, density=0.5, lengths=[64, 64], threads=2, minimum=0.0, seed=0)
@example(layers=2, heads=2, width=16, wide=64, density=0.5, lengths=[60, 200, 9], threads=2, minimum=0.0, seed=0)
def test_an_encoder_has_the_same_states_at_all_valid_tokens(
    target: Target | None, layers: int, heads: int, width: int, wide: int, density: float, lengths: list[int],
    threads: int, minimum: float | None, seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    encoder = encoder_of(Uniter(layers=layers, hidden=heads * width, heads=heads, intermediate=wide), density, seed)
    compiled = compile_sparse(encoder, threads=threads, minimum_sparsity=minimum, target=target)
    states = torch.randn(len(lengths), max(lengths), heads * width, generator=random)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    bias = padding_bias(valid, states.dtype)
    with torch.no_grad():
        dense = encoder(states, bias)
        for _ in range(2):  # the second time in used buffers
            found = compiled(states, bias)
            assert found.shape == dense.shape
            assert not found[~valid].any()
            # A norm over very few features divides by what rounding leaves of their variance.
            torch.testing.assert_close(found[valid], dense[valid], atol=1e-4 if width * heads > 8 else 1e-2, rtol=1e-4)


@each_way
def test_a_backbone_has_the_same_outputs(target: Target | None) -> None:
    backbone, random = uniter(), torch.Generator().manual_seed(1)
    compiled = compile_sparse(backbone, target=target)
    for words, regions in (([5, 9, 1], [30, 2, 11]), ([1], [1]), ([20] * 4, [36] * 4), ([7, 3], [0, 0])):
        inputs = batch(words, regions, random)
        with torch.no_grad():
            dense, found = backbone(inputs), compiled(inputs)
            joint = torch.cat([backbone.embeddings(inputs.tokens), backbone.embed_regions(inputs)], 1)
            torch.testing.assert_close(
                compiled.pool_embedded(joint, dense.mask), dense.pooled, atol=1e-4, rtol=0, msg="the pooled alone"
            )
        assert found.text == dense.text
        assert torch.equal(found.mask, dense.mask)
        torch.testing.assert_close(found.pooled, dense.pooled, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.sequence[dense.mask], dense.sequence[dense.mask], atol=1e-4, rtol=1e-4)


def test_an_example_is_answered_the_same_beside_any_others() -> None:
    """Examples packed into one tile, or over the edge of two, see nothing of each other."""
    encoder = encoder_of(Uniter(layers=2, hidden=32, heads=4, intermediate=64), 0.4)
    compiled = compile_sparse(encoder, minimum_sparsity=0)
    random = torch.Generator().manual_seed(2)
    states = torch.randn(7, 50, 32, generator=random)
    bias = torch.zeros(7, 1, 1, 50)
    together = compiled(states, bias)
    for alone, row in zip(states, together, strict=True):
        torch.testing.assert_close(compiled(alone[None], bias[:1])[0], row, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["vqa", "nlvr2", "matching"])
def test_a_trained_ticket_answers_every_test_item_as_dense(name: str, build: Build) -> None:
    """With fp32 values every item's score is the same; with bf16 values the logits move by little."""
    model, task = build(name)
    recipe = Recipe(steps=40, learning_rate=2e-3, batch_tokens=600, dropout=0.0)
    train(model, task, recipe, seed=0)
    vltickets.prune(model, 0.7).apply_(model)
    dense = logits_of(model, task)
    for values, most in (("fp32", 1e-5), ("bf16", 0.2)):
        compiled = compile_sparse(model, values=values)  # type: ignore[arg-type]
        found = logits_of(compiled, task)
        difference = float((found[1] - dense[1]).abs().max())
        assert difference < most * max(1.0, float(dense[1].abs().max())), values
        if values == "fp32":
            assert np.array_equal(found[0], dense[0])


def logits_of(model: Model, task: Task) -> tuple[np.ndarray, Tensor]:
    """Return a test's items, and all that the head said."""
    said: list[Tensor] = []
    hook = model.head.register_forward_hook(lambda _, __, out: said.append(out.detach().flatten()))
    items = evaluate(model, task, "test").items
    hook.remove()
    return items, torch.cat(said)


def test_calls_in_and_out_of_inference_mode_may_follow_one_another() -> None:
    encoder = encoder_of(Uniter(layers=1, hidden=32, heads=4, intermediate=64), 0.4)
    states, bias = torch.randn(2, 30, 32), torch.zeros(2, 1, 1, 30)
    for minimum in (0.0, 1.1):
        with torch.inference_mode():
            compiled = compile_sparse(encoder, minimum_sparsity=minimum)
            first = compiled(states, bias)
        assert torch.equal(compiled(states, bias), first)
        more = compiled(states.repeat(3, 2, 1), bias.repeat(3, 1, 1, 2))
        with torch.inference_mode():
            assert torch.equal(compiled(states.repeat(3, 2, 1), bias.repeat(3, 1, 1, 2)), more)


def test_the_model_is_left_alone_and_can_be_compiled_anew() -> None:
    backbone = uniter()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    compiled = compile_sparse(backbone.train())
    assert not compiled.training
    assert backbone.training
    assert isinstance(compiled.encoder, SparseEncoder)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any("encoder" in name or weight.requires_grad for name, weight in compiled.named_parameters())


def test_matrices_are_kept_sparse_from_the_sparsity_asked_for() -> None:
    encoder = encoder_of(Uniter(layers=1, hidden=64, heads=2, intermediate=128), 0.3)
    with torch.no_grad():
        encoder.layer[0].attention.self.query.weight.fill_(0.1)
    sparse, half, none = (compile_sparse(encoder, minimum_sparsity=least) for least in (0, 0.5, 1.1))
    assert [one.chosen for one in (sparse, half, none)] == [
        {"sparse": 6, "dense": 0},
        {"sparse": 5, "dense": 1},
        {"sparse": 0, "dense": 6},
    ]
    dense_bytes = sum(weight.nbytes for weight in encoder.parameters())
    assert none.nbytes == dense_bytes
    assert sparse.nonzeros == none.nonzeros
    thin = encoder_of(Uniter(layers=1, hidden=256, heads=2, intermediate=512), 0.2)
    bytes_of = [compile_sparse(thin, values=kind, minimum_sparsity=0).nbytes for kind in ("fp32", "bf16")]
    assert bytes_of[1] < bytes_of[0] < 0.4 * sum(weight.nbytes for weight in thin.parameters())


def test_what_cannot_be_done_is_refused_in_a_sentence() -> None:
    backbone, random = uniter(), torch.Generator().manual_seed(0)
    inputs = batch([4, 4], [3, 3], random)
    compiled = compile_sparse(backbone)
    with pytest.raises(UserError, match="only infers"):
        compiled.train()(inputs)
    compiled.eval()
    joint = torch.randn(1, 4, 32, requires_grad=True)
    with pytest.raises(UserError, match="no gradients"):
        compiled.encoder(joint, torch.zeros(1, 1, 1, 4))
    with pytest.raises(UserError, match="float32 on the CPU"):
        compiled.encoder(joint.detach().double(), torch.zeros(1, 1, 1, 4))
    with pytest.raises(UserError, match="first token"):
        compiled.encoder(joint.detach(), padding_bias(torch.tensor([[False, True, True, True]]), joint.dtype))
    with pytest.raises(UserError, match="can't be copied or saved"):
        copy.deepcopy(compiled)
    with pytest.raises(UserError, match="no encoder that can be compiled"):
        compile_sparse(nn.Linear(2, 2))
    with pytest.raises(UserError, match="fp32"):
        compile_sparse(backbone, values="fp16")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1 thread or more"):
        compile_sparse(backbone, threads=0)
    with pytest.raises(UserError, match="share of zeros"):
        compile_sparse(backbone, minimum_sparsity=float("nan"))


@each_way
@given(tiles=st.integers(1, 3), features=st.integers(1, 300), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_norms_of_tiles_equal_torchs(target: Target | None, tiles: int, features: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tiles, features, 64, generator=random) * 3 + 1
    weight, bias = torch.randn(2, features, generator=random)
    expected = functional.layer_norm(x.double().transpose(1, 2), (features,), weight.double(), bias.double(), 1e-6)
    norm = TiledNorm(weight, bias, 1e-6, target)
    found = norm.run(x, torch.empty_like(x))
    most = 1e-4 if features > 4 else 1e-2
    torch.testing.assert_close(found, expected.transpose(1, 2).float(), atol=most, rtol=1e-4)
    assert torch.equal(norm.run(x, x), found), "in place"


@pytest.mark.parametrize("kind", ["Bert", "Camembert", "Electra", "FlavaText", "Roberta", "VisualBert", "XLMRoberta"])
def test_a_hugging_face_encoder_has_the_same_outputs(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(vocab_size=50, **sizes)).eval()
    prune_(model.encoder, 0.4, torch.Generator().manual_seed(0))
    compiled = compile_sparse(model)
    tokens = torch.randint(3, 50, (3, 40))
    mask = torch.arange(40) < torch.tensor([40, 3, 21])[:, None]
    with torch.no_grad():
        for given_mask in (mask.long(), torch.ones_like(mask).long(), None):
            dense, found = (one(tokens, attention_mask=given_mask) for one in (model, compiled))
            valid = given_mask.bool() if given_mask is not None else torch.ones_like(mask)
            states = (one.last_hidden_state[valid] for one in (found, dense))
            torch.testing.assert_close(*states, atol=1e-4, rtol=1e-4)
            if "pooler_output" in dense:
                torch.testing.assert_close(found.pooler_output, dense.pooler_output, atol=1e-4, rtol=0)


def test_a_hugging_face_encoder_of_another_kind_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    other = transformers.BertModel(transformers.BertConfig(vocab_size=50, hidden_act="relu", **sizes))
    with pytest.raises(UserError, match="only exact GELU"):
        compile_sparse(other)


def test_a_vilt_has_the_same_outputs() -> None:
    pytest.importorskip("transformers")
    spec = Vilt(layers=2, hidden=32, heads=2, intermediate=64)
    backbone = build_backbone(spec, vocabulary=50, region_width=spec.pixels.width, dropout=0.0).eval()
    prune_(backbone.encoder, 0.4, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    for weight in (backbone.embeddings.cls_token, backbone.embeddings.position_embeddings):
        nn.init.normal_(weight, generator=random)
    cells = torch.tensor([[x, y, x + 0.5, y + 0.5, 0.5, 0.5, 0.25] for y in (0.0, 0.5) for x in (0.0, 0.5)])
    inputs = Inputs(
        tokens=torch.randint(1, 50, (3, 9), generator=random),
        token_mask=torch.arange(9) < torch.tensor([9, 2, 5])[:, None],
        features=torch.randn(3, 4, spec.pixels.width, generator=random),
        boxes=cells.expand(3, -1, -1),
        region_mask=torch.ones(3, 4, dtype=torch.bool),
        region_types=torch.ones(3, 4, dtype=torch.int64),
    )
    compiled = compile_sparse(backbone)
    with torch.no_grad():
        dense, found = backbone(inputs), compiled(inputs)
    torch.testing.assert_close(found.pooled, dense.pooled, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sequence[dense.mask], dense.sequence[dense.mask], atol=1e-4, rtol=1e-4)


LXMERT = Lxmert(language_layers=2, object_layers=1, cross_layers=2, hidden=32, heads=2, intermediate=96, positions=150)


def lxmert(density: float = 0.3) -> nn.Module:
    pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
    backbone = build_backbone(LXMERT, vocabulary=50, region_width=8, dropout=0.1).eval()
    prune_(backbone.encoder, density, torch.Generator().manual_seed(0))
    return backbone


@each_way
@pytest.mark.parametrize(
    ("words", "regions"),
    [([5, 9, 2], [3, 1, 7]), ([20] * 4, [36] * 4), ([64, 70, 3, 130], [1, 90, 40, 2]), ([1], [1])],
    ids=["one tile", "no padding", "over edges", "smallest"],
)
def test_an_lxmert_has_the_same_states_of_words_and_of_regions(
    target: Target | None, words: list[int], regions: list[int]
) -> None:
    """Both streams, their padding, and the pooled state; in used buffers too, and with several threads."""
    backbone, inputs = lxmert(), batch(words, regions, torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense = backbone(inputs)
        for threads, minimum in ((1, 0.0), (2, None), (3, 1.1)):
            compiled = compile_sparse(backbone, threads=threads, minimum_sparsity=minimum, target=target)
            for _ in range(2):
                found = compiled(inputs)
                torch.testing.assert_close(found.words[inputs.token_mask], dense.words[inputs.token_mask], **CLOSE)
                torch.testing.assert_close(
                    found.regions[inputs.region_mask], dense.regions[inputs.region_mask], **CLOSE
                )
                torch.testing.assert_close(found.pooled, dense.pooled, **CLOSE)
                assert not found.sequence[~dense.mask].any()


CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def test_an_lxmert_reads_texts_without_images_as_before() -> None:
    backbone, inputs = lxmert(), batch([5, 9, 2], [0, 0, 0], torch.Generator().manual_seed(1))
    compiled = compile_sparse(backbone, minimum_sparsity=0)
    with torch.no_grad():
        dense, found = backbone(inputs), compiled(inputs)
    torch.testing.assert_close(found.sequence[dense.mask], dense.sequence[dense.mask], **CLOSE)
    torch.testing.assert_close(found.pooled, dense.pooled, **CLOSE)
    assert compiled.encoder.chosen == {"sparse": 2 * 6 + 6 + 2 * (4 + 2 * 6), "dense": 0}


def test_an_example_of_an_lxmert_is_answered_the_same_beside_any_others() -> None:
    random = torch.Generator().manual_seed(2)
    compiled = compile_sparse(lxmert(), minimum_sparsity=0)
    inputs = batch([9, 40, 30, 2], [30, 1, 36, 8], random)
    with torch.no_grad():
        together = compiled(inputs)
        for row in range(4):
            one = slice(row, row + 1)
            alone = compiled(Inputs(**{name: value[one] for name, value in vars(inputs).items() if value is not None}))
            torch.testing.assert_close(together.pooled[one], alone.pooled, atol=2e-5, rtol=0)
            torch.testing.assert_close(together.regions[one], alone.regions, atol=2e-5, rtol=0)


def test_what_an_lxmert_cannot_be_asked_is_refused_in_a_sentence() -> None:
    backbone, random = lxmert(), torch.Generator().manual_seed(0)
    compiled = compile_sparse(backbone)
    with pytest.raises(UserError, match="needs a region in each example"):
        compiled(batch([4, 4], [3, 0], random))
    inputs = batch([4], [3], random)
    given = {"input_ids": inputs.tokens, "visual_feats": inputs.features, "visual_pos": inputs.boxes[..., :4]}
    library = type(backbone).__mro__[1]
    with pytest.raises(UserError, match="output_attentions"):
        library.forward(compiled, **given, output_attentions=True)
    backbone.encoder.x_layers[1].visn_inter.intermediate_act_fn = nn.ReLU()
    with pytest.raises(UserError, match="only exact GELU"):
        compile_sparse(backbone)


def test_a_trained_lxmert_ticket_answers_every_test_item_as_dense(source: Source) -> None:
    """Questions whose images have 3 to 9 regions; the items' scores are the same, the logits within 1e-5."""
    pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
    spec = Lxmert(language_layers=1, object_layers=1, cross_layers=2, hidden=16, heads=2, intermediate=32, positions=64)
    task = build_task(Vqa(data=World(generator=1)), source, spec)
    backbone = build_backbone(spec, vocabulary=len(source.vocabulary), region_width=task.region_width(), dropout=0.0)
    model = Model(backbone, task.head(spec.hidden, 0.0))
    random = torch.Generator().manual_seed(0)
    backbone.initialise(random, 0.1)
    for module in model.head.modules():
        initialise_module(module, random, 0.1)
    train(model, task, Recipe(steps=30, learning_rate=3e-3, batch_tokens=600, dropout=0.0), seed=0)
    vltickets.prune(model, 0.7).apply_(model)
    dense, found = logits_of(model, task), logits_of(compile_sparse(model), task)
    assert len(np.unique(dense[0])) > 1
    assert np.array_equal(found[0], dense[0])
    assert float((found[1] - dense[1]).abs().max()) < 1e-5 * float(dense[1].abs().max())
