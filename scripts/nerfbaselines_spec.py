"""Registers NeRF-QAT with NerfBaselines: NERFBASELINES_REGISTER names this file. See docs/nerfbaselines.md."""

import sys
from pathlib import Path

from nerfbaselines import register

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:  # the method's modules are this repository's, which is no package to install
    sys.path.insert(0, ROOT)

register(
    {
        "id": "nerf-qat",
        "method_class": "scripts.nerfbaselines_method:NeRFQAT",
        "backends_order": ["python"],
        "metadata": {
            "name": "NeRF-QAT",
            "description": "NeRF, mip-NeRF and tensor fields, trained to int8, 4-bit and ternary files.",
            "licenses": [{"name": "MIT"}],
        },
        "presets": {
            "blender": {"@apply": [{"dataset": "blender"}], "config": "configs/lego_qat.txt"},
            "llff": {"@apply": [{"dataset": "llff"}], "config": "configs/fern_qat.txt"},
            "unbounded": {
                "@apply": [{"dataset": "mipnerf360"}, {"dataset": "tanksandtemples"}, {"dataset": "nerfstudio"}],
                "config": "configs/360_mip.txt",
            },
            "int8": {"@description": "training through int8 rounding follows", "quant": "qat"},
        },
        "implementation_status": {"blender": "working", "llff": "working"},
    }
)
