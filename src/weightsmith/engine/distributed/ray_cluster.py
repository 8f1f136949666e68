"""A connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weightsmith.errors import WeightsmithError

_SECONDS_TO_ANSWER = 10


@contextmanager
def ray_cluster(address: str, refuse: type[WeightsmithError], *, cores: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected to `address`: a cluster's, `auto` for the one this machine is part of, or `local` for
    one, of `cores` (all of this machine's if not given), that lives as long as the `with` block. Raises `refuse` where
    there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns about itself
    try:
        import ray
    except ImportError as error:
        raise refuse("--ray needs `pip install 'weightsmith[ray]'`") from error
    try:
        host, _, port = address.rpartition(":")
        if host and "/" not in host:  # ray itself would knock for many minutes
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
        local = address == "local"
        ray.init(
            address=None if local else address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if local else None,
            num_cpus=cores if local else None,
        )
    except (OSError, ValueError) as error:
        raise refuse(f"--ray {address}: no such cluster ({str(error).splitlines()[0]})") from error
    try:
        yield ray
    finally:
        ray.shutdown()
