"""One candidate after the other: asked for, merged in memory, scored, stored."""
