"""The process of one run, which outlives the page: `python -m weightsmith.page.run_job FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from weightsmith.errors import WeightsmithError
from weightsmith.files.folder_lock import FolderInUse, file_lock
from weightsmith.page.run_folders import RunFolder, RunProgress
from weightsmith.progress import Progress, StageClock

_SECONDS_BETWEEN = 0.3  # two records of how far it is, or two tries to begin
_TRIES = 10


class _Recorder:
    """Keeps in the run's folder how far it is."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._clock, self._told = run, StageClock(), 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        begins = self._clock.begins(progress)
        if now - self._told < _SECONDS_BETWEEN and not begins and progress.done < progress.total:
            return
        self._told = now
        left = self._clock.seconds_left(progress)
        self._run.set_progress(RunProgress(progress.stage, progress.done, progress.total, progress.unit, left))


def main(folder: Path) -> int:
    """Run the pipeline in `folder` into it. Exit code as that of `weightsmith run`."""
    run = RunFolder(folder)
    for _ in range(_TRIES):
        try:
            with file_lock(run.lock):
                if run.state.state != "queued":  # cancelled meanwhile
                    return 130
                run.set_state("running")
                return _work(run)
        except FolderInUse:  # somebody looks whether it is held
            time.sleep(_SECONDS_BETWEEN)
    return 2


def _work(run: RunFolder) -> int:
    try:
        from weightsmith.pipeline.run import run as run_pipeline

        run_pipeline(run.pipeline, run.folder, log=lambda line: print(line, flush=True), on_progress=_Recorder(run))
    except WeightsmithError as error:
        print(error, flush=True)
        run.set_state("failed", str(error))
        return 2
    except KeyboardInterrupt:
        run.set_state("cancelled")
        return 130
    except Exception as error:
        run.set_state("failed", f"{type(error).__name__}: {error}. This is a bug of ours; the log has more")
        raise
    run.set_state("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
