"""Scaling curves: from rows whose times are known, with limits that follow from them."""

import pytest

from patchparity.bench.cases import named_case
from patchparity.bench.report.curves import LIMIT, scaling_figures

from .records import figures, rows_of


def entry(
    case,
    implementation,
    seconds,
    operation="tokens",
    role="implementation",
    threads=2,
    device="cpu",
    dtype="float32",
):
    info = dict(
        case=case,
        implementation=implementation,
        backend=implementation.split(":")[0],
        operation=operation,
        role=role,
    )
    info.update(
        threads_requested=threads,
        device=device,
        dtype=dtype,
        cache="warm",
        host="local",
        precision="ieee",
    )
    samples = {"median": seconds, "q1": seconds, "q3": seconds, "rounds": 3}
    return {
        "extra_info": figures(**info),
        "stats": {**samples, "data": [seconds] * 3},
        "params": {"identity": f"{case}/{implementation}"},
    }


def case_entries(case, scale, **options):
    return [
        entry(case, "torch:conv2d:eager", 2 * scale, **options),
        entry(case, "torch:linear:eager", 3 * scale, **options),
        entry(case, "jax:linear:jit", 4 * scale, **options),
        entry(case, "torch:gemm", 1.0 * scale, "gemm", "ceiling", **options),
        entry(case, "jax:gemm", 1.5 * scale, "gemm", "ceiling", **options),
        entry(case, "torch:copy", 0.25 * scale, "copy", "ceiling", **options),
        entry(case, "torch:conv2d:eager", 1e-5, "one-patch", "overhead", **options),
    ]


def test_batch_image_size_and_threads_are_swept_each_by_itself():
    entries = [
        *case_entries("vit-b16-224-b1", 1e-3),
        *case_entries("vit-b16-224-b8", 8e-3),
        *case_entries("vit-b16-384-b1", 3e-3),
        *case_entries("vit-b16-224-b8", 16e-3, threads=1),
        *case_entries("swin-t4-224-b4", 1e-3),
    ]
    figures = {figure.title: figure for figure in scaling_figures(rows_of(entries))}
    assert {title: figure.curves[0].x for title, figure in figures.items()} == {
        "vit-b16-224: over batch, float32, 2 threads": [1, 8],
        "vit-b16, batch 1: over image size, float32, 2 threads": [224, 384],
        "vit-b16-224-b8: over threads, float32": [1, 2],
    }
    batch = figures["vit-b16-224: over batch, float32, 2 threads"]
    curves = {curve.name: curve for curve in batch.curves}
    assert list(curves) == ["torch:conv2d:eager", "jax:linear:jit", "torch:linear:eager", LIMIT]
    assert [curve.shown for curve in batch.curves] == [True, True, False, True], (
        "a framework's fastest are shown at once"
    )
    work = [named_case(f"vit-b16-224-b{n}").spec.flops(n) for n in (1, 8)]
    assert curves["torch:conv2d:eager"].seconds == [2e-3, 16e-3]
    assert curves["torch:conv2d:eager"].gflops == pytest.approx(
        [work[0] / 2e-3 / 1e9, work[1] / 16e-3 / 1e9]
    )
    assert curves[LIMIT].seconds == pytest.approx([1e-3, 8e-3]), "the fastest product"


def test_where_moving_takes_longer_than_computing_that_is_the_limit():
    entries = case_entries("swin-t4-224-b4", 1e-3) + case_entries("swin-t4-224-b8", 2e-3)
    for each in entries:
        if each["extra_info"]["operation"] == "copy":
            each["stats"].update(data=[5 * each["stats"]["median"] * 4] * 3)
    (figure,) = scaling_figures(rows_of(entries))
    (limit,) = [curve for curve in figure.curves if curve.name == LIMIT]
    assert limit.seconds == pytest.approx([5e-3, 10e-3], rel=1e-3)


def test_each_device_has_its_limit_and_what_stands_alone_has_no_figure():
    assert scaling_figures(rows_of(case_entries("vit-b16-224-b1", 1e-3))) == []
    entries = [
        each
        for n in (1, 8)
        for device in ("cpu", "cuda")
        for each in case_entries(f"vit-b16-224-b{n}", 1e-3 * n, device=device)
    ]
    (figure,) = scaling_figures(rows_of(entries))
    assert [curve.name for curve in figure.curves if curve.name.startswith(LIMIT)] == [
        LIMIT,
        f"{LIMIT} cuda",
    ]
