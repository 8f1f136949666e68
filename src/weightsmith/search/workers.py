"""Where candidates are tried: in this process, in several, or on a Ray cluster. All of them give futures of `run_trial`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from weightsmith.engine.ray_cluster import ray_cluster
from weightsmith.errors import SearchError, WeightsmithError
from weightsmith.search.trial_run import Setup, TrialOrder, TrialResult, run_trial


class Workers(Protocol):
    """`count` candidates are tried at once."""

    count: int

    def start(self, setup: Setup, order: TrialOrder) -> Future[TrialResult]: ...


class _Here:
    count = 1

    def start(self, setup: Setup, order: TrialOrder) -> Future[TrialResult]:
        future: Future[TrialResult] = Future()
        future.set_result(run_trial(setup, order))
        return future


class _Processes:
    """pebble's pool: the death of one process fails its task and no other, and another process takes its place. A process that dies
    between two tasks breaks the pool, and another pool takes its place."""

    def __init__(self, new_pool: Callable[[], Any], count: int) -> None:
        self._new_pool, self.pool, self.count = new_pool, new_pool(), count

    def start(self, setup: Setup, order: TrialOrder) -> Future[TrialResult]:
        if not self.pool.active:
            self.stop()
            self.pool = self._new_pool()
        return self.pool.schedule(run_trial, args=[setup, order])

    def stop(self) -> None:
        self.pool.stop()
        self.pool.join()


class _Ray:
    def __init__(self, ray: Any, count: int, threads: int) -> None:
        self.count = count
        self._run = ray.remote(num_cpus=threads, max_retries=0)(run_trial)

    def start(self, setup: Setup, order: TrialOrder) -> Future[TrialResult]:
        return self._run.remote(setup, order).future()


def result_of(future: Future[TrialResult]) -> TrialResult:
    """What a trial came to; one whose worker died has failed, and no other."""
    try:
        return future.result()
    except BrokenProcessPool:
        return TrialResult(error="its worker died (ProcessExpired)")
    except Exception as error:
        cause = getattr(error, "cause", None)  # what a Ray task raised
        if isinstance(cause, WeightsmithError):
            raise cause from None
        if (
            not isinstance(error, WeightsmithError)
            and cause is None
            and type(error).__module__.startswith(("pebble", "ray"))
        ):
            return TrialResult(error=f"its worker died ({type(error).__name__})")
        raise


@contextmanager
def open_workers(count: int, ray: str | None, threads: int) -> Iterator[Workers]:
    """`ray`: the address of a cluster, `auto`, or `local`; else `count` processes, this one if it is 1. Raises SearchError."""
    if ray:
        with ray_cluster(ray, SearchError, cores=count * threads) as module:
            cores = sum(int(node["Resources"].get("CPU", 0)) // threads for node in module.nodes() if node["Alive"])
            if not cores:
                raise SearchError(
                    f"--ray {ray}: no machine of the cluster has {threads} cores; ask for fewer --threads"
                )
            yield _Ray(module, min(count, cores) if count > 1 else cores, threads)
    elif count == 1:
        yield _Here()
    else:
        try:
            from pebble import ProcessPool
        except ImportError as error:
            raise SearchError("--workers needs `pip install 'weightsmith[search]'`") from error
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        processes = _Processes(lambda: ProcessPool(max_workers=count, context=context), count)
        try:
            yield processes
        finally:
            processes.stop()
