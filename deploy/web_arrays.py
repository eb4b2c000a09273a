"""All numbers of a page's model, as bytes one behind the other: plain, several to a byte, or a range coder's stream."""

import numpy as np
import torch

ALIGNED = 4  # bytes that arrays start at multiples of


class Arrays:
    """All arrays of a page, one behind the other."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.places: list[list] = []
        self.coded: list[dict] = []
        self.packed: list[dict] = []
        self.end = 0

    def add(self, values: torch.Tensor | np.ndarray) -> int:
        """Its number."""
        array = np.ascontiguousarray(values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values)
        content = array.tobytes()
        self.places.append([self.end, len(content)])
        padded = content + bytes(-len(content) % ALIGNED)
        self.parts.append(padded)
        self.end += len(padded)
        return len(self.places) - 1

    def add_weights(self, values: torch.Tensor) -> int:
        """Its number, of an int8 array that a page unpacks where its values are so few that a byte holds several."""
        weights = values.detach().cpu().numpy().reshape(-1).astype(np.int64)
        low, base = int(weights.min()), int(np.ptp(weights)) + 1
        together = max(count for count in range(1, 9) if base**count <= 256)
        if together == 1 or base == 1:
            return self.add(values)
        digits = np.pad(weights - low, (0, -len(weights) % together)).reshape(-1, together)
        number = self.add((digits @ base ** np.arange(together)).astype(np.uint8))
        how = {"low": low, "base": base, "together": together, "length": len(weights)}
        self.packed.append({"number": number, **how})
        return number

    def add_coded(self, stream: torch.Tensor, parts: list[dict]) -> list[int]:
        """Their numbers, of arrays that a page decodes from a range coder's stream (`unfold.js`), one after another."""
        numbers = [self.add(np.zeros(0, np.uint8)) for _ in parts]
        parts = [{"to": number, **part} for number, part in zip(numbers, parts, strict=True)]
        self.coded.append({"stream": self.add(stream), "parts": parts})
        return numbers
