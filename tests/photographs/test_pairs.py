"""Which pictures are compared."""

import numpy as np

from photographs.pairs import all_pairs, following, looking_alike, signatures


def test_all_and_following_pairs():
    assert len(all_pairs(20)) == 190 and all(i < j for i, j in all_pairs(20))
    pairs = following(60)
    assert {j - i for i, j in pairs} == {*range(1, 11), 16, 32}
    assert all(0 <= i < j < 60 for i, j in pairs) and len(set(pairs)) == len(pairs)


def places(count: int, seed: int = 0) -> list[np.ndarray]:
    """Descriptors of pictures along a loop of `count` places, passed twice: of each half its own, half the next's."""
    random = np.random.default_rng(seed)
    things = [random.integers(0, 255, (60, 128)) for _ in range(count)]
    seen = []
    for i in range(2 * count):
        rows = np.concatenate([things[i % count], things[(i + 1) % count]])
        seen.append((rows + random.integers(-6, 7, rows.shape)).clip(0, 255).astype(np.uint8))
    return seen


def test_pictures_that_look_alike_close_a_loop():
    pairs = set(looking_alike(places(30), seed=0))
    assert sum((i, i + 30) in pairs for i in range(30)) >= 28
    assert all(j - i > 10 for i, j in pairs)
    assert looking_alike(places(30), seed=0) == sorted(pairs)


def test_a_picture_without_features_is_like_none():
    seen = places(30)
    seen[3] = np.zeros((0, 128), np.uint8)
    signs = signatures(seen, 0)
    assert not signs[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(signs, 3, 0), axis=1), 1, rtol=1e-5)
    assert not signatures([np.zeros((0, 128), np.uint8)] * 4, 0).any()
