"""How likely given tokens are: every prefix that requests share is computed once."""
