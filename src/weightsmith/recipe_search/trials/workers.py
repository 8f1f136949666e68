"""Where candidates run: in this process, in several, or on a Ray cluster. All of them give futures of
`run_trial`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol

from weightsmith.engine.distributed.ray_cluster import ray_cluster
from weightsmith.errors import SearchError, WeightsmithError
from weightsmith.recipe_search.trials.run_trial import Setup, TrialJob, TrialResult, run_trial


class Workers(Protocol):
    """`count` candidates are tried at once."""

    count: int

    def start(self, setup: Setup, job: TrialJob) -> Future[TrialResult]: ...


class _ThisProcess:
    count = 1

    def start(self, setup: Setup, job: TrialJob) -> Future[TrialResult]:
        future: Future[TrialResult] = Future()
        future.set_result(run_trial(setup, job))
        return future


class _WorkerProcess:
    """One process of its own executor: its death fails its candidate and no other."""

    def __init__(self) -> None:
        self._open()

    @property
    def is_free(self) -> bool:
        return self._work is None or self._work.done()

    def start(self, setup: Setup, job: TrialJob) -> Future[TrialResult]:
        try:
            self._work = self._executor.submit(run_trial, setup, job)
        except BrokenProcessPool:  # it died since it was last at work
            self._executor.shutdown()
            self._open()
            self._work = self._executor.submit(run_trial, setup, job)
        return self._work

    def stop(self) -> None:
        """Without waiting for its candidate."""
        if not self.is_free and self._process.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.result(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one signal
        self._executor.shutdown(cancel_futures=True)

    def _open(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(1, spawn, initializer=_begin_process)
        self._process = self._executor.submit(os.getpid)
        self._work: Future[TrialResult] | None = None


class _Processes:
    def __init__(self, count: int) -> None:
        self.count, self._slots = count, [_WorkerProcess() for _ in range(count)]

    def start(self, setup: Setup, job: TrialJob) -> Future[TrialResult]:
        return next(process_slot for process_slot in self._slots if process_slot.is_free).start(setup, job)

    def stop(self) -> None:
        for process_slot in self._slots:
            process_slot.stop()


def _begin_process() -> None:
    """A worker leaves Ctrl-C, which reaches every process of a terminal, to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


class _Ray:
    def __init__(self, ray: Any, count: int, threads: int) -> None:
        self.count = count
        self._run = ray.remote(num_cpus=threads, max_retries=0)(run_trial)

    def start(self, setup: Setup, job: TrialJob) -> Future[TrialResult]:
        return self._run.remote(setup, job).future()


def result_of(future: Future[TrialResult]) -> TrialResult:
    """What a trial came to; one whose worker died has failed, and no other."""
    try:
        return future.result()
    except BrokenProcessPool:
        return TrialResult(error="its worker died")
    except Exception as error:
        cause = getattr(error, "cause", None)  # what a Ray task raised
        if isinstance(cause, WeightsmithError):
            raise cause from None
        if not isinstance(error, WeightsmithError) and cause is None and type(error).__module__.startswith("ray"):
            return TrialResult(error=f"its worker died ({type(error).__name__})")
        raise


@contextmanager
def open_workers(count: int, ray: str | None, threads: int) -> Iterator[Workers]:
    """`ray`: the address of a cluster, `auto`, or `local`; else `count` processes, this one if it is 1. Raises
    SearchError."""
    if ray:
        with ray_cluster(ray, SearchError, cores=count * threads) as module:
            cores = sum(int(node["Resources"].get("CPU", 0)) // threads for node in module.nodes() if node["Alive"])
            if not cores:
                raise SearchError(
                    f"--ray {ray}: no machine of the cluster has {threads} cores; ask for fewer --threads"
                )
            yield _Ray(module, min(count, cores) if count > 1 else cores, threads)
    elif count == 1:
        yield _ThisProcess()
    else:
        processes = _Processes(count)
        try:
            yield processes
        finally:
            processes.stop()
