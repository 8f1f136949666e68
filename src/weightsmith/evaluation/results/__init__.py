"""What models scored, and whether they differ by more than chance."""
