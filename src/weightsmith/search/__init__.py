"""Searching for the parameters of a merge: spaces, samplers, objectives, trials, and what came of them."""

from weightsmith.callable_room import make_callable
from weightsmith.search.search import SearchSummary, search

__all__ = ["SearchSummary", "search"]

make_callable(__name__)
