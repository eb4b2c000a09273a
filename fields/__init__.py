"""What a place holds: density and colour, by networks or tables; and their layers as a graph."""
