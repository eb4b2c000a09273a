"""How fine a picture may be: as fine as can be kept up while the camera moves, then finer step by step."""

SECONDS = 1 / 12  # that a picture may take while the camera moves
LEAST = 24**2  # pixels, fewer show nothing
FINER = 2.0  # times as many pixels on each side, from one picture of a camera that stands still to the next
MEMORY = 0.7  # share of what was measured before that stays in the mean, a picture


class Pace:
    """Measures what a pixel takes, and chooses sizes by it.

    What a picture costs beside its pixels makes those of small ones dearer; only pictures of a moving camera are
    measured, so that it is known of the size it is asked for. cost: seconds a pixel. The mean is one of costs and not
    of rates, so that what slows down is heeded at once.
    """

    def __init__(self, seconds: float = SECONDS, first: float = 64**2):
        """seconds: of a picture while the camera moves. first: pixels of the very first picture."""
        self.seconds, self.cost = seconds, seconds / first

    def took(self, pixels: int, seconds: float) -> None:
        """A picture of a moving camera is done."""
        self.cost = MEMORY * self.cost + (1 - MEMORY) * max(seconds, 1e-6) / pixels

    def moving(self, longest: int, pixels: int) -> float:
        """The longer side of a picture while the camera moves. longest, pixels: that of the finest one, and how many it
        has."""
        wanted = max(LEAST, self.seconds / self.cost)
        return longest * min(1.0, (wanted / pixels) ** 0.5)


def finer(side: float, longest: int) -> float:
    """The longer side of the next picture of a camera that stands still. What would save little is left out."""
    return longest if side * FINER * FINER**0.5 > longest else side * FINER
