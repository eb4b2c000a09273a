"""What `--quant` may be: a line for each."""

from compressors.compressor import Compressor
from compressors.int8 import Int8Compressor
from compressors.low_bit import TernaryCompressor, W4A8Compressor

COMPRESSORS: dict[str, type[Compressor]] = {
    "qat": Int8Compressor,
    "ptq": Int8Compressor,
    "w4a8": W4A8Compressor,
    "ternary": TernaryCompressor,
}
