"""`python -m tests.runtime_tables [check.json [NAME.tar.xz]]`: docs/runtimes.md made anew from the
kept records, of a check of everything and of runtimes that came later, or from a new one, which is
kept. A test holds the page to the records."""

import io
import json
import lzma
import sys
import tarfile
import tempfile
from pathlib import Path

from patchparity import get_backend
from patchparity.backends.runtime import RuntimeBackend
from patchparity.bench.check.behavior import BEHAVIORS
from patchparity.bench.check.known_issues import FINGERPRINT, load_known_issues
from patchparity.bench.check.results import CheckReport, CheckResult, load_check
from patchparity.bench.check.sharding import SHARDED_BEHAVIORS
from patchparity.bench.check.tables import behavior_findings

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "runtimes.md"
RECORD = ROOT / "bench" / "records" / "runtimes" / "check.tar.xz"

HEAD = """\
# Runtimes: what each says, and what it delivers

Made by `python -m tests.runtime_tables` from `bench/records/runtimes`, one `patchparity check` of everything on {machine}: {counts}.
Models are made of the same weights by each runtime's own converter where it has one (MLX and tinygrad take arrays, IREE compiles StableHLO), in a temporary folder, as users
make them, and the converter is part of what is judged.

    patchparity backends --install openvino     # an interpreter of its own, with the versions of constraints.txt
    patchparity check --backend openvino

A runtime whose packages are installed beside this one is used as it is (`pip install 'patchparity[runtimes]'`); one that is not, from the interpreter that
`--install` made, or from one that `--python NAME=PATH` names. What crashes or hangs costs its own rows.

"""  # noqa: E501

NO_ARITHMETIC = "another result"
"""What is delivered where the result is wrong as a whole, so that no arithmetic can be told."""

DELIVERED = """\
## Arithmetic

**Says** is what an implementation declares; **delivers** what its outputs show on random data without a bias ([how](check.md)); **bits** the fewest effective bits over
all shapes; **error** the largest as a fraction of its derived bound, of what passed. `default` is what a runtime does when nobody asks for a precision, told where it is
another. Of int8 the bound comes from the steps that the runtime chose, read from its model, or made by its own rule where it chooses them as images come.

"""  # noqa: E501

BEHAVIOR = """
## What differs silently

Each is one question to every implementation, and was found by it, by nobody's name. `known` is written down with versions and reason in
`bench/check/known_issues.toml`, and fails where it is not found any more.

"""  # noqa: E501


def kept() -> list[CheckReport]:
    """The records: that of everything, and those of runtimes that came later."""
    others = sorted(path for path in RECORD.parent.glob("*.tar.xz") if path != RECORD)
    return [_read(path) for path in (RECORD, *others)]


def _read(path: Path) -> CheckReport:
    with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extract("check.json", folder, filter="data")
        return load_check(Path(folder) / "check.json")


def keep(path: Path, name: str = RECORD.name) -> None:
    """Keep a new one, of everything, or under a name of its own."""
    content = json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode()
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("check.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    (RECORD.parent / name).write_bytes(lzma.compress(packed.getvalue(), preset=9))


def arithmetic(results: list[CheckResult]) -> list[str]:
    """A row for each implementation, dtype and precision of which something is told."""
    groups: dict[tuple[str, str, str], list[CheckResult]] = {}
    for row in results:
        if row.behavior is None and row.declared and row.dtype and row.precision:
            key = row.implementation, row.dtype, row.precision
            groups.setdefault(key, []).append(row)
    lines = [
        "| implementation | dtype | says | delivers | bits | error | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    told: dict[tuple[str, str], str] = {}
    for (name, dtype, precision), rows in groups.items():
        fingerprints = [row for row in rows if row.probe == FINGERPRINT]
        shown_by = [row for row in fingerprints if row.delivered] or rows
        delivered = "; ".join(dict.fromkeys(row.delivered for row in shown_by if row.delivered))
        if precision == "default" and told.get((name, dtype)) == delivered:
            continue
        told[name, dtype] = delivered
        bits = [row.effective_bits for row in fingerprints if row.effective_bits is not None]
        ratios = [row.bound_ratio or 0.0 for row in rows if row.verdict == "pass"]
        verdict = next(
            (each for each in ("error", "fail", "known") if any(r.verdict == each for r in rows)),
            "pass",
        )
        says = rows[0].declared or ""
        shown = f"**{delivered or NO_ARITHMETIC}**" if verdict != "pass" else delivered
        place = f"{dtype}, default" if precision == "default" else dtype
        few = f"{min(bits):.1f}" if bits else ""
        error = f"{max(ratios):.2f}" if ratios and verdict == "pass" else ""
        lines.append(f"| `{name}` | {place} | {says} | {shown} | {few} | {error} | {verdict} |")
    return lines


def behaviors(results: list[CheckResult]) -> list[str]:
    """A row for each question and finding, with who it is found of, and the reason."""
    issues = load_known_issues()
    questions = {name: behavior.question for name, behavior in BEHAVIORS.items()}
    questions |= {name: question.question for name, question in SHARDED_BEHAVIORS.items()}
    lines = ["| question | found | of | why |", "|---|---|---|---|"]
    for probe, finding, names, verdict, message in behavior_findings(results):
        question = questions[probe]
        reasons = "; ".join(
            dict.fromkeys(issue.reason for issue in issues if f"{issue.id}: " in message)
        )
        marked = f"**{finding}**" if verdict != "pass" else finding
        whose = ", ".join(f"`{name}`" for name in names.split(", "))
        lines.append(f"| {question} (`{probe}`) | {marked} | {whose} | {reasons} |")
    return lines


def page(reports: list[CheckReport]) -> str:
    """The whole page."""
    machine, counts = machine_of(reports[0]), counts_of(reports[0])
    results = [row for report in reports for row in report.results]
    of_runtimes = [row for row in results if _is_runtime(row.backend)]
    others = [row for row in results if _is_shown(row)]
    packages: dict[str, str] = {}
    for report in reports:
        versions = report.environment["versions"]
        packages |= {
            package: versions[package]
            for name in _names_in(report)
            for package in get_backend(name).packages
            if versions.get(package, "unavailable") != "unavailable"
        }
    told = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    later = [
        f"`{', '.join(_names_in(report))}` in a check of its own, on {machine_of(report)}: "
        f"{counts_of(report)}."
        for report in reports[1:]
    ]
    lines = [
        HEAD.format(machine=machine, counts=counts) + " ".join([f"Versions: {told}.", *later]),
        "",
        DELIVERED + "### Runtimes",
        "",
        *arithmetic(of_runtimes),
        "",
        "### Frameworks, and several devices",
        "",
        "Of each framework what its users call; all of them: `patchparity check`.",
        "",
        *arithmetic(others),
        "",
        BEHAVIOR.rstrip("\n"),
        "",
        *behaviors(results),
    ]
    return "\n".join(lines) + "\n"


def machine_of(report: CheckReport) -> str:
    """Where a check was run."""
    return f"{report.environment['cores']} cores of {report.environment['processor']}"


def counts_of(report: CheckReport) -> str:
    """How many rows have each verdict."""
    return ", ".join(f"{count:,} {verdict}" for verdict, count in report.summary.items())


def _names_in(report: CheckReport) -> list[str]:
    return sorted({row.backend for row in report.results if row.verdict != "skip"})


def _is_shown(row: CheckResult) -> bool:
    """Whether it is one of what users of a framework call, or of several devices."""
    backend = get_backend(row.backend)
    if _is_runtime(row.backend) or row.mode is None:
        return False
    implementation = backend.implementation(row.implementation)
    return implementation.customary or implementation.sharded


def _is_runtime(name: str) -> bool:
    return name == "onnxruntime" or isinstance(get_backend(name), RuntimeBackend)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]), *sys.argv[2:])
    PAGE.write_text(page(kept()))
