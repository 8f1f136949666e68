"""Files that somebody else made: read under limits, with errors that name them."""
