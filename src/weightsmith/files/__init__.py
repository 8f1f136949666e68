"""Files that we write and read besides weights: written whole or not at all, locked, named by their content."""
