"""How fine a picture may be: as fine as can be kept up while the camera moves, then finer step by step."""

SECONDS = 1 / 12  # that a picture may take while the camera moves
LEAST = 24**2  # pixels, fewer show nothing
FINER = 2.0  # times as many pixels on each side, from one picture of a camera that stands still to the next
MEMORY = 0.7  # share of what was measured before that stays in the mean, a picture


class Pace:
    """Measures how many pixels a second are rendered, and chooses sizes by it.

    What a picture costs beside its pixels makes small ones slower a pixel; only those of a moving camera are measured,
    so that the rate is that of the size it is asked for.
    """

    def __init__(self, seconds: float = SECONDS, first: float = 64**2):
        """seconds: of a picture while the camera moves. first: pixels of the very first picture."""
        self.seconds, self.rate = seconds, first / seconds

    def took(self, pixels: int, seconds: float) -> None:
        """A picture of a moving camera is done."""
        self.rate = MEMORY * self.rate + (1 - MEMORY) * pixels / max(seconds, 1e-6)

    def moving(self, longest: int, pixels: int) -> float:
        """The longer side of a picture while the camera moves. longest, pixels: that of the finest one, and how many it
        has."""
        wanted = max(LEAST, self.rate * self.seconds)
        return longest * min(1.0, (wanted / pixels) ** 0.5)


def finer(side: float, longest: int) -> float:
    """The longer side of the next picture of a camera that stands still. What would save little is left out."""
    return longest if side * FINER * FINER**0.5 > longest else side * FINER
