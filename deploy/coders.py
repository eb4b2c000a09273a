"""Symbols to bytes and back: coders whose probabilities follow what they have coded so far.

Nothing about the statistics is stored. Encoder and decoder count alike, in whole numbers, what came in each context,
so that what one writes the other reads on any machine. One call does for both directions:
`coder.code(model, contexts, symbols)` writes the symbols it is given or reads those it is not.
"""

import lzma
import math

import numpy as np

from utils.errors import BadInput, BrokenFile

try:
    import constriction
except ImportError:  # an unusual platform: LZMA in its place, with larger files
    constriction = None

INCREMENT = 32  # of a count, each time a symbol comes
MEMORY = 64  # symbols, times their number: when a context has counted more, its past counts half
LZMA_MEMORY = 2**27  # bytes that unfolding LZMA may take, twice what its highest preset needs


class AdaptiveModel:
    """Counts of `symbols` symbols in each of `contexts` contexts, which start from `prior [symbols]`."""

    def __init__(self, contexts: int, prior: np.ndarray):
        self.counts = np.tile(np.maximum(prior, 1).astype(np.int64), (contexts, 1))

    @property
    def contexts(self) -> int:
        return self.counts.shape[0]

    @property
    def symbols(self) -> int:
        return self.counts.shape[1]

    def probabilities(self, contexts: np.ndarray) -> np.ndarray:
        """`[M, symbols]` float32, one row for each of the contexts `[M]`; not normalised."""
        return self.counts[contexts].astype(np.float32)

    def update(self, contexts: np.ndarray, symbols: np.ndarray) -> None:
        np.add.at(self.counts, (contexts, symbols), INCREMENT)
        full = np.flatnonzero(self.counts.sum(1) > MEMORY * INCREMENT * self.symbols)
        self.counts[full] = (self.counts[full] + 1) // 2


def uniform(symbols: int) -> np.ndarray:
    return np.ones(symbols)


class RangeEncoder:
    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()
        self._family = constriction.stream.model.Categorical(perfect=False)

    def code(self, model: AdaptiveModel, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        if model.symbols > 1:  # else constriction would refuse, and there is nothing to tell
            self._coder.encode(symbols.astype(np.int32), self._family, model.probabilities(contexts))
        model.update(contexts, symbols)
        return symbols

    def bytes(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes()


class _Bounded:
    """What decoders share: a few bytes may stand for any number of symbols, so somebody says how many are believed."""

    def __init__(self, most: float):
        self.left = most

    def expect(self, symbols: int) -> None:
        """Raises BrokenFile where so many more symbols are more than this stream is believed to hold."""
        if symbols > self.left:
            raise BrokenFile(f"the coded stream is to hold {symbols} symbols more, which its few bytes cannot mean")

    def take(self, symbols: int) -> None:
        self.expect(symbols)
        self.left -= symbols


class RangeDecoder(_Bounded):
    def __init__(self, content: bytes, most: float = math.inf):
        super().__init__(most)
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(content, "<u4").astype(np.uint32))
        self._family = constriction.stream.model.Categorical(perfect=False)

    def code(self, model: AdaptiveModel, contexts: np.ndarray, symbols: np.ndarray | None = None) -> np.ndarray:
        self.take(len(contexts))
        if model.symbols == 1:
            return np.zeros(len(contexts), np.int64)
        try:
            symbols = self._coder.decode(self._family, model.probabilities(contexts)).astype(np.int64)
        except AssertionError as error:  # what constriction raises for bytes that no encoder wrote
            raise BrokenFile("the coded stream is damaged") from error
        model.update(contexts, symbols)
        return symbols


class LzmaEncoder:
    """The same symbols without their contexts, as bytes for LZMA."""

    def __init__(self):
        self._parts: list[np.ndarray] = []

    def code(self, model: AdaptiveModel, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        self._parts.append(symbols.astype("<u2" if model.symbols > 256 else "u1"))
        return symbols

    def bytes(self) -> bytes:
        return lzma.compress(b"".join(part.tobytes() for part in self._parts), preset=9 | lzma.PRESET_EXTREME)


class LzmaDecoder(_Bounded):
    """Unfolds no more at once than is asked for."""

    def __init__(self, content: bytes, most: float = math.inf):
        super().__init__(most)
        self._stream = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
        self._ahead = self._unfold(content, 1)  # a byte, which shows whether this is a stream at all

    def code(self, model: AdaptiveModel, contexts: np.ndarray, symbols: np.ndarray | None = None) -> np.ndarray:
        self.take(len(contexts))
        kind = "<u2" if model.symbols > 256 else "u1"
        symbols = np.frombuffer(self._read(len(contexts) * np.dtype(kind).itemsize), kind)
        return np.minimum(symbols.astype(np.int64), model.symbols - 1)

    def _read(self, count: int) -> bytes:
        content, self._ahead = self._ahead[:count], self._ahead[count:]
        while len(content) < count:
            part = self._unfold(b"", count - len(content))
            if not part:
                raise BrokenFile("the coded stream ends early")
            content += part
        return content

    def _unfold(self, content: bytes, most: int) -> bytes:
        try:
            return b"" if self._stream.eof else self._stream.decompress(content, most)
        except lzma.LZMAError as error:
            raise BrokenFile("the coded stream is damaged") from error


Encoder, Decoder = RangeEncoder | LzmaEncoder, RangeDecoder | LzmaDecoder


CODERS = ("range", "lzma")


def make_encoder() -> tuple[str, Encoder]:
    """The best encoder there is, and its name, which a decoder must be told."""
    return ("range", RangeEncoder()) if constriction else ("lzma", LzmaEncoder())


def make_decoder(name: str, content: bytes, most: float = math.inf) -> Decoder:
    """most: symbols that it may be asked for."""
    if name == "range" and not constriction:
        raise BadInput("this file needs the package constriction; pip install constriction")
    return {"range": RangeDecoder, "lzma": LzmaDecoder}[name](content, most)
