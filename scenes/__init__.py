"""What a reader hands over: pictures, cameras, lenses and bounds, and what makes captures into scenes."""
