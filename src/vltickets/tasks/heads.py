"""The pre-training heads under UNITER's official names: words, regions' classes and features, matching (1.3)."""

from __future__ import annotations

import torch
from torch import nn

from vltickets.backbones.uniter import LAYER_NORM_EPS


def two_layers(width: int, inner: int, outputs: int, activation: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """Return Linear(width, inner), activation, LN, Linear(inner, outputs): the shape of most of UNITER's heads."""
    norm = nn.LayerNorm(inner, eps=LAYER_NORM_EPS)
    return nn.Sequential(nn.Linear(width, inner), activation(), norm, nn.Linear(inner, outputs))


def norm_first(width: int, inner: int, outputs: int) -> nn.Sequential:
    """Return Linear(width, inner), LN, GELU, Linear(inner, outputs): ViLT's order."""
    norm = nn.LayerNorm(inner)
    return nn.Sequential(nn.Linear(width, inner), norm, nn.GELU(), nn.Linear(inner, outputs))


class PretrainingHead(nn.Module):
    """All heads of the pre-training objectives; without `regions`, those of words and of matching.

    What is tied to the backbone is given at the call: the word table to the MLM decoder, the image projection to
    feature regression, which else (`tied_features` False) has its own.
    """

    def __init__(
        self,
        hidden: int,
        vocabulary: int,
        classes: int,
        region_width: int,
        *,
        tied_features: bool = True,
        regions: bool = True,
    ) -> None:
        super().__init__()
        self.cls = nn.ModuleDict({"predictions": WordPrediction(hidden, vocabulary)})
        self.itm_output = nn.Linear(hidden, 2)
        if not regions:
            return
        self.region_classifier = RegionClassifier(hidden, classes)
        self.feat_regress = (
            FeatureRegression(hidden, region_width) if tied_features else OwnFeatureRegression(hidden, region_width)
        )


class WordPrediction(nn.Module):
    """Dense, GELU, LN, then the word table (given at the call, because it is tied) and a bias of its own."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)}
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: torch.Tensor, word_table: torch.Tensor) -> torch.Tensor:
        """Return logits [masked, words] of states [masked, d]."""
        transformed = self.transform["LayerNorm"](nn.functional.gelu(self.transform["dense"](states)))
        return nn.functional.linear(transformed, word_table, self.bias)


class FeatureRegression(nn.Module):
    """Linear, GELU, LN, then the image projection backwards (given at the call, because it is tied) and a bias."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=LAYER_NORM_EPS))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, states: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        """Return features [masked, width] of states [masked, d]; `projection` [d, width] is `img_linear`'s weight."""
        return nn.functional.linear(self.net(states), projection.T, self.bias)


class OwnFeatureRegression(nn.Module):
    """Linear, GELU, LN, Linear to the feature: for backbones whose regression is tied to nothing, as LXMERT's."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.net = two_layers(hidden, hidden, width)

    def forward(self, states: torch.Tensor, projection: None) -> torch.Tensor:
        """Return features [masked, width] of states [masked, d]."""
        features: torch.Tensor = self.net(states)
        return features


class RegionClassifier(nn.Module):
    """Linear, GELU, LN, Linear to the detector's classes; official key `net`."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.net = two_layers(hidden, hidden, classes)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [masked, classes] of states [masked, d]."""
        logits: torch.Tensor = self.net(states)
        return logits


class ObjectHead(nn.Module):
    """LXMERT's head over regions: dense, GELU, LN, then a linear decoder for each of what is predicted.

    Official keys `transform` and `decoder_dict`: `obj`, `attr` and `feat`.
    """

    def __init__(self, hidden: int, outputs: dict[str, int]) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)}
        )
        self.decoder_dict = nn.ModuleDict({name: nn.Linear(hidden, count) for name, count in outputs.items()})

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is predicted of states [..., d], [..., outputs] each, by name."""
        transformed = self.transform["LayerNorm"](nn.functional.gelu(self.transform["dense"](states)))
        return {name: decoder(transformed) for name, decoder in self.decoder_dict.items()}
