"""Where weights lie is worked out from the spec; the built module is the truth it is held to."""

from __future__ import annotations

from collections import Counter

import pytest

from vltickets.backbones import prunable_shapes, weight_places
from vltickets.specs import SIZES, HuggingFace, Uniter


@pytest.mark.parametrize("size", [size for size, spec in SIZES.items() if not isinstance(spec, HuggingFace)])
def test_every_prunable_weight_has_a_place_of_its_shape(size: str) -> None:
    if size.startswith("lxmert"):
        pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
    places = weight_places(SIZES[size])
    assert [(name, place.shape) for name, place in places.items()] == list(prunable_shapes(SIZES[size]).items())


def test_layer_and_kind_are_those_of_the_official_names() -> None:
    places = weight_places(Uniter())
    wanted = {
        "encoder.layer.0.attention.self.query.weight": (0, "query"),
        "encoder.layer.3.attention.self.key.weight": (3, "key"),
        "encoder.layer.4.attention.self.value.weight": (4, "value"),
        "encoder.layer.10.attention.output.dense.weight": (10, "attention output"),
        "encoder.layer.10.intermediate.dense.weight": (10, "FFN in"),
        "encoder.layer.11.output.dense.weight": (11, "FFN out"),
        "pooler.dense.weight": (None, "pooler"),
    }
    assert {name: (places[name].layer, places[name].kind) for name in wanted} == wanted
    assert set(Counter(place.layer for place in places.values() if place.layer is not None).values()) == {6}
    assert sum(place.size for place in places.values()) == 85_524_480
