"""What `--field` may be: a line for each kind."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from fields import light_field, mip_nerf, nerf, ref_nerf, tensorf_training
from fields.field import Trainable


@dataclass(frozen=True)
class Kind:
    """title: of its flags in the help. add_flags: adds them. from_flags: from these and a box `[2, 3]` to an untrained
    field; `fine=True`, where it can be a fine pass, and `network`, the class of its network, may be given.
    samplers: those of `rendering.kinds` that it works with; None: all. schedule: from flags and a step to what
    learning rates are multiplied by; None: what `--lrate_decay` says, as for a NeRF. contracts: whether `from_flags`
    takes the `ball` beyond which space is contracted."""

    title: str
    add_flags: Callable[[argparse._ArgumentGroup], None]
    from_flags: Callable[..., Trainable]
    samplers: tuple[str, ...] | None = None
    schedule: Callable[..., Callable[[int], float]] | None = None
    contracts: bool = False


FIELDS = {
    "nerf": Kind("network (--field nerf, mip, ref)", nerf.add_flags, nerf.from_flags),
    "mip": Kind("pixels as cones (--field mip, ref)", mip_nerf.add_flags, mip_nerf.from_flags, contracts=True),
    "ref": Kind("reflections (--field ref)", ref_nerf.add_flags, ref_nerf.from_flags, contracts=True),
    "tensorf": Kind(
        "tensor field (--field tensorf)",
        tensorf_training.add_flags,
        tensorf_training.from_flags,
        samplers=("occupancy",),
        schedule=tensorf_training.schedule,
    ),
    "light_field": Kind(
        "light field (--field light_field)",
        light_field.add_flags,
        light_field.from_flags,
        samplers=("light_field",),
        contracts=True,
    ),
}
