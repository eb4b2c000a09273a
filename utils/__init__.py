"""What every folder may need: errors, progress, files, devices, flags; it knows nothing of radiance fields."""
