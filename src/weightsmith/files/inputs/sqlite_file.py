"""The one way to open a SQLite database that somebody else may have changed: tables and rows, and nothing that runs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from weightsmith.errors import WeightsmithError, shown
from weightsmith.files.inputs.read_input import open_regular, read_head

_MAGIC = b"SQLite format 3\0"
_MAX_VALUE = 64 << 20  # bytes of one value


def open_sqlite(
    path: Path, tables: set[str], *, error: type[WeightsmithError], patience: float = 60
) -> sqlite3.Connection:
    """A connection to the database at `path`, which is created where it is not there; it waits `patience` seconds for
    another program that holds it. Raises `error`, naming the file, where it is no regular file, no database, damaged,
    or has a view, a trigger or a table that is not one of `tables`: ours have none
    (https://www.sqlite.org/security.html)."""
    remedy = "remove it, or choose another output folder"
    if path.is_symlink() or path.exists():
        head = read_head(open_regular(path, error), len(_MAGIC))
        if head not in (b"", _MAGIC):
            raise error(f"{path}: is no SQLite database; {remedy}", path=path)
    try:
        database = sqlite3.connect(path, timeout=patience, check_same_thread=False)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA cell_size_check=ON")
        for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
            usual = kind == "index" or (kind == "table" and name in tables)
            if not usual or " VIRTUAL " in (sql or "").upper():
                raise error(
                    f"{path}: has the {kind} {shown(name)}, which weightsmith did not write; {remedy}", path=path
                )
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except (sqlite3.Error, UnicodeError) as problem:
        if "locked" in str(problem):
            remedy = "another program holds it; close that and run again"
        raise error(f"{path}: cannot be used as a database: {problem}; {remedy}", path=path) from problem
    if verdict != "ok":
        raise error(f"{path}: is damaged ({shown(verdict)[1:-1]}); {remedy}", path=path)
    return database
