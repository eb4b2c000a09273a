"""What executes a field out of a file, for each kind of number and machine."""
