"""Models that are made of models label one scan together: what each of them says of the whole scan is averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision
from segcli.inference.segment import Segmentation, Wishes
from segcli.inference.together import added
from segcli.memory import mapped
from segcli.space.volume import Volume, Voxels

_ALL = 255  # of probabilities in uint8


def mean_of(
    answers: Sequence[tuple[Segmentation, Decision]], groups: Sequence[Sequence[int]], wishes: Wishes
) -> Segmentation:
    """The labels of a scan by the mean of several models' probabilities at its voxels.

    Where all models decide alike their label stands. Elsewhere the structures of a group compete among each other and
    with background, which is what they leave of 1, and a later group has the last word, as parts have it.

    answers  with probabilities; the decision tells the order of their channels
    groups   label values of the first model's parts, in their order
    """
    (first, decide), *_ = answers
    labels = first.labels.data.copy()
    shape = labels.shape[1:]
    shares = mapped((len(decide.values), *shape), np.uint8) if wishes.probabilities else None
    votes = np.zeros((1, *shape), np.uint8)
    orders = [[own.values.index(value) for value in decide.values] for _, own in answers]
    given = [_probabilities(answer) for answer, _ in answers]
    for plane in range(shape[0]):
        each = np.stack([answer.labels.data[0, plane] for answer, _ in answers])
        differ = (each != each[0]).any(0)
        if differ.any():
            mean = np.mean([p[:, plane][:, differ][k] for p, k in zip(given, orders, strict=True)], axis=0)
            labels[0, plane][differ] = _decided(mean, decide, groups)
            votes[0, plane] = np.rint(_ALL * (each != labels[0, plane]).mean(0))
        if shares is not None:
            shares[:, plane] = np.rint(np.mean([p[k, plane] for p, k in zip(given, orders, strict=True)], axis=0))
    found = [answer for answer, _ in answers]
    grid = first.labels.grid
    return Segmentation(
        Volume(labels, grid, first.labels.source),
        added(*(answer.seconds for answer in found)),
        sum(answer.windows for answer in found),
        _means([answer.confidence for answer in found]),
        tuple(dict.fromkeys(sentence for answer in found for sentence in answer.warnings)),
        probabilities=None if shares is None else Volume(shares, grid),
        disagreement=_disagreement(labels, votes),
        votes=Volume(votes, grid) if wishes.votes else None,
    )


def _probabilities(answer: Segmentation) -> Voxels:
    assert answer.probabilities is not None  # whoever averages has asked for them
    return answer.probabilities.data


def _decided(mean: NDArray[np.float64], decide: Decision, groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Label values (n,) from mean probabilities (K, n) of 255."""
    labels = np.zeros(mean.shape[1], np.int64)
    if decide.rule == "regions":
        for value, share in zip(decide.values, mean, strict=True):
            labels[share > _ALL / 2] = value
        return labels
    for values in groups:
        share = mean[[decide.values.index(value) for value in values]]
        wins = share.max(0) > _ALL - share.sum(0)
        labels[wins] = np.array(values)[share.argmax(0)][wins]
    return labels


def _means(confidence: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Of each label value the mean over the models that say something of it."""
    values = dict.fromkeys(value for one in confidence for value in one)
    return {value: float(np.mean([one[value] for one in confidence if value in one])) for value in values}


def _disagreement(labels: Voxels, votes: NDArray[np.uint8]) -> dict[int, float]:
    """By label value the mean share of models that decide otherwise."""
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), votes.ravel())
    return {int(value): float(sums[value] / counts[value] / _ALL) for value in np.flatnonzero(counts)}
