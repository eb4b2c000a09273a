"""Why a picture got no camera, as far as that can be seen."""

import numpy as np

from photographs.gathering import Picture
from photographs.structure import Structure

BLURRED = 0.4  # of the sharpness of most, or less
FEW_FEATURES = 300
PLAIN = 20  # grey levels of contrast, of 255, or less: blur leaves more of what there is to see
FEW_MATCHES = 30  # of the same points in any one picture that has a camera


def strongest_match(name: str, structure: Structure, among: set[str]) -> int:
    """How many points of a picture are the same in the one of `among` that shares most."""
    counts = [
        count
        for pair, count in structure.matches.items()
        if name in pair and (pair[0] if pair[1] == name else pair[1]) in among
    ]
    return max(counts, default=0)


def why_left_out(picture: Picture, pictures: list[Picture], structure: Structure) -> str:
    """A line on a picture without a camera."""
    usual = float(np.median([other.sharpness for other in pictures if other.name]))
    shared = strongest_match(picture.name, structure, structure.registered)
    features = structure.features.get(picture.name, 0)
    other_model = next((model for model in structure.models[1:] if picture.name in model), None)
    if other_model:
        return f"of another place: {len(other_model)} pictures fit together, but not with the others"
    plain = features < FEW_FEATURES and picture.contrast < PLAIN
    if picture.sharpness < BLURRED * usual and not plain:
        return f"blurred: sharpness {picture.sharpness:.3g}, most have {usual:.3g}"
    if features < FEW_FEATURES:
        return f"little to see: {features} features, bare walls and sky have few"
    if shared < FEW_MATCHES:
        return f"few matches: {shared} points at most are the same in a picture with a camera; take some in between"
    return f"its {shared} matches fit no camera: things moved, or a pattern repeats"
