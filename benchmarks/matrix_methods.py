"""Methods of matrices against the dense form of their formula: error, and time of both, side by side.

    .venv/bin/python benchmarks/matrix_methods.py [ROWSxCOLUMNS ...]

Task vectors of three models with decaying spectra and a part in common. The dense form takes full SVDs, in float32, by
LAPACK, as the methods' own code does. Times are of one matrix, best of two, with all of torch's threads for both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from weightsmith.machine import describe_machine
from weightsmith.methods.composed.rules import MatrixScan
from weightsmith.methods.matrices.linear_algebra import top_svd
from weightsmith.methods.registry import METHODS
from weightsmith.methods.tensor_settings import Settings

SHAPES = ("576x1536", "1024x1024", "2048x2048")
MODELS, RANK = 3, 16


def experts(rows: int, columns: int) -> torch.Tensor:
    """Float32 [models, rows, columns]."""
    generator = torch.Generator().manual_seed(0)
    rank = min(rows, columns)
    decay = (1 + torch.arange(rank)) ** -0.7
    made = []
    common = torch.randn(rows, columns, generator=generator)
    for _ in range(MODELS):
        left, right = (torch.randn(size, rank, generator=generator) / size**0.5 for size in (rows, columns))
        made.append((left * decay) @ right.T + 0.01 * common / (rows * columns) ** 0.25)
    return torch.stack(made)


def svd(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vh[:count]


def polar(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def tsv_m(deltas: torch.Tensor) -> torch.Tensor:
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = [svd(delta, kept) for delta in deltas]
    u, s = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts])
    return (polar(u) * s) @ polar(torch.cat([part[2] for part in parts]))


def iso_c(deltas: torch.Tensor) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    return s.mean() * (u @ vh)


def svc(deltas: torch.Tensor) -> torch.Tensor:
    total = deltas.sum(0)
    u, s, vh = torch.linalg.svd(total, full_matrices=False)
    along = u.T @ total
    own = torch.stack([u.T @ delta for delta in deltas])
    shares = ((along * own).sum(2) / own.square().sum(2).clamp(min=1e-12)).clamp(min=0.1).sum(0)
    return (u * (s * len(deltas) / shares)) @ vh


DENSE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"tsv_m": tsv_m, "iso_c": iso_c, "svc": svc}


class Adapters(MatrixScan):
    """Task vectors that are known as the products of small matrices."""

    def __init__(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        b, a = pairs[0]
        super().__init__(np.zeros((len(pairs) + 1, len(b) * a.shape[1]), np.float32), a.shape[1], (0,) * 4, 0)
        self._pairs = pairs

    def low_rank(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self._pairs[number - 1]


def adapters(rows: int, columns: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """B and A of each model."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((rows, RANK), (RANK, columns))
    return [tuple(torch.randn(size, generator=generator) for size in sizes) for _ in range(MODELS)]  # type: ignore[misc]


def scan_of(deltas: torch.Tensor) -> MatrixScan:
    """On a base with elements of the usual size."""
    base = 0.02 * torch.randn(deltas.shape[1:], generator=torch.Generator().manual_seed(2))
    values = torch.stack([base, *(base + delta for delta in deltas)]).flatten(1)
    return MatrixScan(values.numpy(), deltas.shape[2], (0,) * (len(deltas) + 1), 0)


def ours(name: str, scan: MatrixScan) -> torch.Tensor:
    parameters = METHODS[name].parameters
    shared = {p.name: p.default for p in parameters if p.scope == "shared"}
    own = {p.name: p.default for p in parameters if p.scope != "shared"}
    settings = Settings(shared, ({}, *([own] * MODELS)), 0, "matrix")
    return METHODS[name].statistics(scan, settings).values["merged"].view(scan.shape)


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return best, result


def main() -> None:
    print(f"{describe_machine()}; {torch.get_num_threads()} threads, {MODELS} models\n")
    print("| matrix | method | dense, s | weightsmith, s | times faster | relative difference |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for shape in sys.argv[1:] or SHAPES:
        deltas = experts(*map(int, shape.split("x")))
        scan = scan_of(deltas)
        for name, method in METHODS.items():
            if not method.of_matrices or method.reads_text or name == "core_space":
                continue
            seconds, result = timed(partial(ours, name, scan))
            if name in DENSE:
                dense_seconds, expected = timed(partial(DENSE[name], deltas))
                apart = float((result - expected).norm() / expected.norm())
                cells = f"{dense_seconds:.2f} | {seconds:.2f} | {dense_seconds / seconds:.1f} | {apart:.1e}"
            else:
                cells = f" | {seconds:.2f} | | "
            print(f"| {shape} | `{name}` | {cells} |", flush=True)
        of_adapters(shape)


def of_adapters(shape: str) -> None:
    """Adapters against whole models that are the same; and a few of the largest singular values against an SVD."""
    pairs = adapters(*map(int, shape.split("x")))
    scan = scan_of(torch.stack([b @ a for b, a in pairs]))
    for name in ("tsv_m", "iso_c", "iso_cts", "swudi", "aswudi", "actmat", "knots", "svc", "core_space"):
        whole_seconds, whole = timed(partial(ours, name, scan))
        seconds, result = timed(partial(ours, name, Adapters(pairs)))
        apart = float((result - whole).norm() / whole.norm())
        print(
            f"| {shape} | `{name}` of adapters, rank {RANK}, against whole models | {whole_seconds:.2f} | {seconds:.3f} | "
            f"{whole_seconds / seconds:.0f} | {apart:.1e} |",
            flush=True,
        )
    matrix = experts(*map(int, shape.split("x"))).sum(0)
    svd_seconds, exact = timed(lambda: svd(matrix, RANK)[1])
    seconds, found = timed(lambda: top_svd(matrix, RANK)[1])
    lost = [float((matrix.square().sum() - values.square().sum()).sqrt()) for values in (exact, found)]
    print(
        f"| {shape} | {RANK} largest singular values (`--lora-rank`): more lost | {svd_seconds:.2f} | {seconds:.3f} | "
        f"{svd_seconds / seconds:.0f} | {lost[1] / lost[0] - 1:.1e} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
