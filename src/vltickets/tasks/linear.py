"""Linear references: what can be had from words and region features without any transformer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vltickets.data import Captions, Questions, Ragged, Regions
from vltickets.tasks.matching import candidates
from vltickets.tasks.ranking import recalls

STRENGTHS = (30.0, 300.0, 3000.0)
LARGEST = 500_000_000  # numbers of a table of words, 2 GB: past that a linear model is no quick reference any more


def is_small(texts: Ragged) -> bool:
    """Do the texts' words fit in memory as a table [texts, words]? UNITER's own data sets don't."""
    return len(texts) * (int(texts.values.max()) + 1) <= LARGEST


def ridge_matching(train: Captions, held_out: Captions, split: str, count: int = 20) -> float:
    """Return the matching accuracy of a ridge regression from image features to the words of captions.

    The best of three strengths on the held-out split is returned, so the reference is a little too good, never too
    bad. Same items as `MatchingTask`.
    """
    shown, rows = candidates(held_out, split, count)
    best = 0.0
    for captions, predicted in _words_of_images(train, held_out, shown):
        scores = np.einsum("pcw,pw->pc", captions[rows], predicted)
        best = max(best, float((scores[:, 1:] < scores[:, :1]).all(1).mean()))
    return best


def ridge_retrieval(train: Captions, held_out: Captions) -> float:
    """Return the image R@1 of the same regression, every caption against every image; the best of three strengths."""
    images = np.unique(held_out.images)
    own = np.searchsorted(images, held_out.images)
    tables = (captions @ predicted.T for captions, predicted in _words_of_images(train, held_out, images))
    return max(float(recalls(table, own, (1,))["ir@1"].mean()) for table in tables)


def _words_of_images(
    train: Captions, held_out: Captions, images: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the held-out captions' words [captions, words] and, for each strength, those predicted of the images.

    Image: mean of its region features and, beside it, that of its largest region. Caption: tf-idf of its words, summed
    over an image's captions in training, of length 1.
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
    queries = (_image_features(held_out.regions, images) - centre) / scale
    captions = _unit(_bags(held_out.texts, words) * idf)
    gram, moment = x.T @ x, x.T @ (_unit(targets) - _unit(targets).mean(0))
    for strength in STRENGTHS:
        yield captions, queries @ np.linalg.solve(gram + strength * np.eye(len(gram), dtype=np.float32), moment)


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
