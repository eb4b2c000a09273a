"""From rays to pictures: what is asked of a field where, and how the answers become colours."""
