"""From photographs, or a video, to cameras: what was in the pictures, which see the same, and where they were taken."""
