"""Methods of matrices: the properties that their papers claim, and small dense references in float64, written from the
formulas."""

from __future__ import annotations

import math

import pytest
import torch

from tests.methods.scan_of import WholeTensors, run, settings_of
from weightsmith.methods.matrices.linear_algebra import gram_svd, polar_factor
from weightsmith.methods.registry import METHODS
from weightsmith.methods.tensor_settings import MatrixLayout, Settings

MATRIX_METHODS = [name for name, method in METHODS.items() if method.of_matrices and not method.reads_text]
SHAPES = [(24, 16), (16, 24), (20, 20)]


def experts(rows: int, columns: int, count: int, seed: int = 0) -> torch.Tensor:
    """Task vectors float64 [count, rows, columns] with decaying spectra, and a part in common."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)
    common = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(made + 0.5 * common, full_matrices=False)
    decay = 0.8 ** torch.arange(s.shape[1], dtype=torch.float64)
    return u @ torch.diag_embed(s * decay) @ v


def orthogonal_experts(rows: int, columns: int, count: int) -> torch.Tensor:
    """Task vectors whose row spaces and column spaces are orthogonal to each other, of rank 3 each."""
    generator = torch.Generator().manual_seed(1)
    u = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    parts = [slice(3 * i, 3 * i + 3) for i in range(count)]
    return torch.stack([(u[:, part] * values) @ v[:, part].T for part in parts])


def merged(
    name: str, deltas: torch.Tensor, layout: MatrixLayout | None = None, *, own: dict | None = None, **shared
) -> torch.Tensor:
    """The merged task vector, float64, of the method on a base of small numbers, in blocks of a few rows."""
    base = torch.randn(deltas.shape[1:], generator=torch.Generator().manual_seed(9)).double() * 1e-3
    whole = torch.stack([base, *(base + delta for delta in deltas)]).float()
    filled = settings_of(name, 0, [{}, *([own or {}] * len(deltas))], **shared)
    settings = Settings(filled.shared, filled.per_input, 0, "matrix", layout)
    rows, columns = deltas.shape[1:]
    scan = WholeTensors(whole.reshape(len(whole), -1), columns, 5 * columns)
    return run(name, scan, settings, "combine").view(rows, columns).double() - whole[0].double()


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert float((actual - expected).norm()) <= tolerance * float(expected.norm())


def thin(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vh[:count].T


def polar(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def tsv_m(deltas: torch.Tensor) -> torch.Tensor:
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = [thin(delta, kept) for delta in deltas]
    u, s, v = (torch.cat([part[i] for part in parts], -1) for i in range(3))
    return polar(u) @ torch.diag(s) @ polar(v).T


def iso_c(deltas: torch.Tensor) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    return s.mean() * u @ vh


def iso_cts(deltas: torch.Tensor, fraction: float = 0.8) -> torch.Tensor:
    count, rank = len(deltas), min(deltas.shape[1:])
    own = round((rank - int(rank * fraction)) / count)
    u, s, v = thin(deltas.sum(0), rank - own * count)
    parts = [thin(delta - u @ u.T @ delta, own) for delta in deltas]
    us, ss, vs = (torch.cat([*(part[i] for part in parts), joined], -1) for i, joined in enumerate((u, s, v)))
    return ss.mean() * polar(us) @ polar(vs).T


def closed_form(deltas: torch.Tensor, filters, normalized: bool = True, start: str = "mean") -> torch.Tensor:
    scales = [1 / float(d.square().sum()) if normalized else 1.0 for d in deltas]
    system = sum(s * d.T @ d for s, d in zip(scales, deltas, strict=True))
    target = sum(s * d @ d.T @ d for s, d in zip(scales, deltas, strict=True))
    values, v = torch.linalg.eigh(system)
    f = filters(values)
    first = {"mean": deltas.mean(0), "sum": deltas.sum(0), "zero": deltas[0] * 0}[start]
    return first - first @ v @ torch.diag(f) @ v.T + target @ v @ torch.diag(f / values.clamp(min=1e-8)) @ v.T


def swudi(deltas: torch.Tensor, t: float = 300, ratio: float = 0.85, start: str = "mean") -> torch.Tensor:
    def filters(values: torch.Tensor) -> torch.Tensor:
        kept = torch.arange(len(values)) >= len(values) - math.ceil(len(values) * ratio)
        return (1 - (-values.clamp(min=1e-8) * t).exp()) * kept

    return closed_form(deltas, filters, start=start)


def svc(deltas: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    factors = []
    for r in range(len(s)):
        along = u[:, r] @ deltas.sum(0)
        shares = [float(along @ (u[:, r] @ d)) / max(float((u[:, r] @ d).square().sum()), 1e-12) for d in deltas]
        factors.append(len(deltas) / sum(max(share, alpha) for share in shares))
    return u @ torch.diag(s * torch.tensor(factors, dtype=s.dtype)) @ vh


def knots(deltas: torch.Tensor) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(torch.cat(list(deltas), 1), full_matrices=False)
    coordinates = torch.diag(s) @ vh
    parts = torch.stack(coordinates.split(deltas.shape[2], 1))
    agree = parts.sign() == torch.where(parts.sum(0) >= 0, 1.0, -1.0)
    return u @ ((parts * agree).sum(0) / agree.sum(0).clamp(min=1))


REFERENCES = {"tsv_m": tsv_m, "iso_c": iso_c, "iso_cts": iso_cts, "swudi": swudi, "svc": svc}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", REFERENCES)
def test_the_numbers_are_those_of_the_dense_formula(name: str, count: int, shape: tuple[int, int]) -> None:
    deltas = experts(*shape, count)
    close(merged(name, deltas), REFERENCES[name](deltas), 2e-4)


@pytest.mark.parametrize("start", ["mean", "sum", "zero"])
def test_swudi_starts_where_it_is_told(start: str) -> None:
    deltas = experts(24, 16, 3)
    close(merged("swudi", deltas, t=20.0, rank_ratio=0.5, start=start), swudi(deltas, 20, 0.5, start), 1e-4)


def test_knots_with_signs_that_no_rounding_can_turn() -> None:
    deltas = experts(12, 16, 2)
    ours, dense = merged("knots", deltas), knots(deltas)
    # the sign of a singular vector is nobody's choice: with the election by sums it changes nothing
    close(ours, dense, 1e-3)
    kept = merged("knots", deltas, own={"density": 0.5})
    assert 0.2 < float(kept.norm() / ours.norm()) < 1.5


@pytest.mark.parametrize("name", sorted({*MATRIX_METHODS} - {"iso_c", "iso_cts"}))
def test_one_model_gives_itself(name: str) -> None:
    (only,) = experts(24, 16, 1)
    close(merged(name, only.unsqueeze(0)), only, 2e-4)


@pytest.mark.parametrize("name", ["tsv_m", "swudi", "aswudi", "actmat"])
def test_models_without_a_direction_in_common_give_their_sum(name: str) -> None:
    deltas = orthogonal_experts(24, 20, 3)
    more = {"swudi": {"start": "zero", "t": 1e6}, "aswudi": {"start": "zero"}}.get(name, {})
    close(merged(name, deltas, **more), deltas.sum(0), 1e-3)


@pytest.mark.parametrize("name", ["actmat", "svc", "aswudi"])
def test_equal_models_give_that_model(name: str) -> None:
    (one,) = experts(24, 16, 1)
    deltas = torch.stack([one] * 4)
    close(merged(name, deltas), one, 1e-3)


@pytest.mark.parametrize("name", ["iso_c", "iso_cts"])
def test_all_singular_values_are_the_same(name: str) -> None:
    deltas = experts(24, 16, 4)
    values = torch.linalg.svdvals(merged(name, deltas))
    assert float(values.max() / values.min()) - 1 < 1e-3
    if name == "iso_c":
        close(values.sum(), torch.linalg.svdvals(deltas.sum(0)).sum(), 1e-4)  # the nuclear norm stays


def test_wudi_s_gradient_is_zero_at_its_solution() -> None:
    deltas = experts(24, 16, 3)
    theta = merged("swudi", deltas, t=1e7, rank_ratio=1.0, start="zero")
    theta.requires_grad_(True)
    loss = sum(((theta - d) @ d.T).square().sum() / d.square().sum() for d in deltas)
    loss.backward()
    scale = sum(float((2 * d @ d.T @ d).norm()) / float(d.square().sum()) for d in deltas)
    assert float(theta.grad.norm()) < 1e-4 * scale


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_nothing_moved_gives_the_base(name: str) -> None:
    assert float(merged(name, torch.zeros(3, 12, 8, dtype=torch.float64)).abs().max()) < 1e-9


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_each_part_of_a_fused_weight_is_merged_by_itself(name: str) -> None:
    q, k = experts(8, 16, 3, seed=1), experts(16, 16, 3, seed=2)
    apart = torch.cat([merged(name, q), merged(name, k)])
    close(merged(name, torch.cat([q, k], 1), MatrixLayout(1, (8, 16))), apart, 1e-3)
    # two heads: rows 0-3 and 12-15 of q, the rest of k
    order = [*range(4), *range(8, 16), *range(4, 8), *range(16, 24)]
    by_head = torch.cat([q, k], 1)[:, order]
    close(merged(name, by_head, MatrixLayout(2, (4, 8))), apart[order], 1e-3)
    close(merged(name, q.mT.contiguous(), MatrixLayout(1, (8,), transposed=True)), merged(name, q).T, 1e-3)


def test_what_is_no_matrix_gets_what_the_recipe_says() -> None:
    deltas = torch.tensor([[[1.0, 2.0]], [[3.0, -2.0]]], dtype=torch.float64)
    for rule, expected in (("mean", [2.0, 0.0]), ("sum", [4.0, 0.0]), ("base", [0.0, 0.0])):
        for role, key in (("vector", "vectors"), ("embedding", "embeddings")):
            filled = settings_of("tsv_m", 0, [{}, {}, {}], **{key: rule})
            whole = torch.cat([torch.ones(1, 1, 2), 1 + deltas.float()]).view(3, 2)
            settings = Settings(filled.shared, filled.per_input, 0, role)
            result = run("tsv_m", WholeTensors(whole, 2, 2), settings, "combine") - 1
            assert result.tolist() == expected


@pytest.mark.parametrize("shape", [*SHAPES, (40, 3), (1, 7)], ids=str)
def test_singular_vectors_and_polar_factors_without_an_svd(shape: tuple[int, int]) -> None:
    matrix = experts(*shape, 1)[0]
    u, s, v = gram_svd(matrix, 5)
    count = min(5, *shape)
    torch.testing.assert_close(s.double(), torch.linalg.svdvals(matrix)[:count], rtol=1e-5, atol=1e-6)
    close((u.double() * s) @ v.double().T, sum_of(thin(matrix, count)), 1e-5)
    close(polar_factor(matrix).double(), polar(matrix), 1e-3)


def test_a_direction_that_is_not_there_stays_away() -> None:
    matrix = torch.zeros(6, 4)
    matrix[0, 0], matrix[1, 1] = 5.0, 1e-3
    factor = polar_factor(matrix)
    close(factor, torch.eye(6, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0]), 1e-3)
    assert not polar_factor(torch.zeros(3, 2)).any()


def sum_of(parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    u, s, v = parts
    return (u * s) @ v.T
