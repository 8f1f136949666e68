"""The version that was installed: the tag in git, or between two tags the commit."""

from importlib.metadata import version

__version__ = version("weightsmith")
