"""Linear references: what can be had from words and region features without any transformer."""

from __future__ import annotations

import numpy as np

from vltickets.data import Captions, Questions, Ragged, Regions
from vltickets.tasks.matching import candidates

STRENGTHS = (30.0, 300.0, 3000.0)


def ridge_matching(train: Captions, held_out: Captions, split: str, count: int = 20) -> float:
    """Return the matching accuracy of a ridge regression from image features to the words of captions.

    Image: mean of its region features and, beside it, that of its largest region. Caption: tf-idf of its words, summed
    over an image's captions in training, of length 1. The best of three strengths on the held-out split is returned,
    so the reference is a little too good, never too bad. Same items as `MatchingTask`.
    """
    words = int(max(train.texts.values.max(), held_out.texts.values.max())) + 1
    counts = _bags(train.texts, words)
    idf = np.log((1 + len(train.images)) / (1 + (counts > 0).sum(0)))
    photos = np.unique(train.images)
    targets = np.zeros((len(photos), words), dtype=np.float32)
    np.add.at(targets, np.searchsorted(photos, train.images), _unit(counts * idf))
    features = _image_features(train.regions, photos)
    centre, scale = features.mean(0), features.std(0) + 1e-6
    x = (features - centre) / scale
    shown, rows = candidates(held_out, split, count)
    queries = (_image_features(held_out.regions, shown) - centre) / scale
    captions = _unit(_bags(held_out.texts, words) * idf)
    gram, moment = x.T @ x, x.T @ (_unit(targets) - _unit(targets).mean(0))
    best = 0.0
    for strength in STRENGTHS:
        predicted = queries @ np.linalg.solve(gram + strength * np.eye(len(gram), dtype=np.float32), moment)
        scores = np.einsum("pcw,pw->pc", captions[rows], predicted)
        best = max(best, float((scores[:, 1:] < scores[:, :1]).all(1).mean()))
    return best


def ridge_answers(train: Questions, held_out: Questions) -> float:
    """Return the accuracy of a ridge regression from a question's words and its image to the answers' scores.

    Words as a bag; the image as for matching. The best of three strengths on the held-out split.
    """
    words = int(max(train.texts.values.max(), held_out.texts.values.max())) + 1
    x, queries = (
        np.concatenate([_bags(data.texts, words), _image_features(data.regions, data.images)], axis=1)
        for data in (train, held_out)
    )
    centre, scale = x.mean(0), x.std(0) + 1e-2  # a word that stands in few questions is not blown up
    x, queries = (x - centre) / scale, (queries - centre) / scale
    gram, moment = x.T @ x, x.T @ (train.scores - train.scores.mean(0))
    best = 0.0
    for strength in STRENGTHS:
        weights = np.linalg.solve(gram + strength * np.eye(len(gram), dtype=np.float32), moment)
        answers = (queries @ weights + train.scores.mean(0)).argmax(1)
        best = max(best, float(held_out.scores[np.arange(len(answers)), answers].mean()))
    return best


def _bags(texts: Ragged, words: int) -> np.ndarray:
    bags = np.zeros((len(texts), words), dtype=np.float32)
    rows = np.repeat(np.arange(len(texts)), texts.lengths)
    np.add.at(bags, (rows, texts.values.numpy()), 1.0)
    return bags


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)
    return unit


def _image_features(regions: Regions, images: np.ndarray) -> np.ndarray:
    distinct, place = np.unique(images, return_inverse=True)
    out = []
    for image in distinct:
        features = regions.features.row(int(image)).float().numpy()
        largest = int(regions.boxes.row(int(image))[:, 6].argmax())
        out.append(np.concatenate([features.mean(0), features[largest]]))
    found: np.ndarray = np.stack(out).astype(np.float32)[place]
    return found
