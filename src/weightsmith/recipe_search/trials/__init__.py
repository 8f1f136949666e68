"""One candidate after the other: drawn, merged in memory, scored, stored."""
