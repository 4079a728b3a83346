"""A door for ordinary files: what is what is guessed or told, written down as a mapping, and applied (DOOR)."""
