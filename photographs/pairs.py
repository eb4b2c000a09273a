"""Which pictures are compared with which: those that follow each other, those that look alike, or all with all."""

import cv2
import numpy as np

OVERLAP = 10  # pictures after each, and the 2nd, 4th, 8th, ... beyond
ALIKE = 8  # that look most like each
FAR_APART = 10  # pictures between two, from which on they may close a loop
WORDS, SAMPLE = 64, 20_000  # of the vocabulary, and descriptors that it is made of

Pair = tuple[int, int]


def all_pairs(count: int) -> list[Pair]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def following(count: int) -> list[Pair]:
    """Each with those after it: the next few, then ever farther ones."""
    steps = sorted({*range(1, OVERLAP + 1), *(2**i for i in range(1, 20))})
    return [(i, i + step) for i in range(count) for step in steps if i + step < count]


def looking_alike(descriptors: list[np.ndarray], seed: int) -> list[Pair]:
    """Each with those that look most like it and do not follow it anyway. descriptors: SIFT's of each picture,
    uint8 `[K, 128]`."""
    signs = signatures(descriptors, seed)
    likeness = signs @ signs.T
    count = len(signs)
    numbers = np.arange(count)
    likeness[np.abs(numbers[:, None] - numbers) <= FAR_APART] = -np.inf
    pairs = set()
    for i in range(count):
        for j in np.argsort(-likeness[i], kind="stable")[:ALIKE]:
            if np.isfinite(likeness[i, j]):
                pairs.add((min(i, int(j)), max(i, int(j))))
    return sorted(pairs)


def signatures(descriptors: list[np.ndarray], seed: int) -> np.ndarray:
    """A unit vector for each picture `[N, WORDS * 128]`: how its descriptors lie about the words of a vocabulary that
    is made of all of them (VLAD, Jegou et al. 2010), with square roots against words that are everywhere."""
    random = np.random.default_rng(seed)
    every = np.concatenate([rows.astype(np.float32) for rows in descriptors])
    if len(every) < WORDS:
        return np.zeros((len(descriptors), WORDS * 128), np.float32)
    sample = every[random.choice(len(every), min(SAMPLE, len(every)), replace=False)]
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 12, 1e-3)
    _, _, words = cv2.kmeans(sample, WORDS, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
    signs = np.zeros((len(descriptors), WORDS, 128), np.float32)
    for sign, rows in zip(signs, descriptors, strict=True):
        if not len(rows):
            continue
        rows = rows.astype(np.float32)
        nearest = (words**2).sum(1) - 2 * rows @ words.T
        word = nearest.argmin(1)
        np.add.at(sign, word, rows - words[word])
    signs = np.sign(signs) * np.sqrt(np.abs(signs))
    signs = signs.reshape(len(signs), -1)
    return signs / np.maximum(np.linalg.norm(signs, axis=1, keepdims=True), 1e-9)
