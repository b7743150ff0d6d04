"""Known issues as data: which surprising behavior is known, in which versions; what no longer
reproduces fails."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from ...backends.base import Backend
from ...reference.errors import PatchParityError
from ..machine.environment import processor_features
from .behavior import BEHAVIORS
from .results import CheckResult
from .sharding import SHARDED_BEHAVIORS, SHARDED_RESULT

FINGERPRINT = "random-zero-bias"
"""The probe whose `delivered` an entry about arithmetic names."""

FINGERPRINTS = {FINGERPRINT: FINGERPRINT, "random-bytes-zero-bias": FINGERPRINT}
"""The same of images of bytes, by the name of its probe."""

KNOWN_ISSUES = Path(__file__).with_name("known_issues.toml")


@dataclass(frozen=True)
class KnownIssue:
    """One entry; the fields are those that the head of `known_issues.toml` describes."""

    id: str
    implementations: tuple[str, ...]
    probe: str
    found: str
    versions: dict[str, str]
    reason: str
    machines: tuple[str, ...] = ()
    cpu_has: tuple[str, ...] = ()
    cpu_lacks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    dtype: str = ""
    precision: str = ""
    unless: dict[str, str] = dataclasses.field(default_factory=dict)
    link: str = ""

    def covers(
        self, implementation: str, device: str | None = None, dtype: str | None = None
    ) -> bool:
        """Whether it names an implementation, or a backend for a behavior of the framework; on a
        device, in a dtype, where one is given."""
        if device is not None and self.devices and device not in self.devices:
            return False
        if dtype is not None and self.dtype and dtype != self.dtype:
            return False
        return any(
            implementation == name or implementation.startswith(name + ":")
            for name in self.implementations
        )

    def applies(self, versions: dict[str, str]) -> bool:
        """Whether these versions and this machine are among those that it is about, and no variable
        avoids it."""
        try:
            inside = all(
                name in versions
                and SpecifierSet(wanted).contains(versions[name].split("+")[0], prereleases=True)
                for name, wanted in self.versions.items()
            )
        except InvalidVersion:
            return False
        avoided = any(os.environ.get(name) == value for name, value in self.unless.items())
        return (
            inside
            and not avoided
            and (not self.machines or platform.machine() in self.machines)
            and self._cpu_is_one()
        )

    def _cpu_is_one(self) -> bool:
        """Whether the CPU is known to have one of the instruction sets that it takes, and none of
        those that avoid it."""
        features = processor_features()
        if features is None:
            return not (self.cpu_has or self.cpu_lacks)
        return (not self.cpu_has or not features.isdisjoint(self.cpu_has)) and features.isdisjoint(
            self.cpu_lacks
        )


def load_known_issues(path: Path = KNOWN_ISSUES) -> list[KnownIssue]:
    """Read the entries of a TOML file.

    Raises:
        PatchParityError: a file that cannot be read, an entry that lacks a field, has an unknown
            one, or a range that is none.
    """
    try:
        entries = tomli.loads(path.read_text(encoding="utf-8")).get("issue", [])
    except (OSError, ValueError) as error:
        raise PatchParityError(f"cannot read known issues from {path}: {error}") from None
    issues = []
    for entry in entries:
        try:
            issue = KnownIssue(**entry)
            for wanted in issue.versions.values():
                SpecifierSet(wanted)
        except (TypeError, AttributeError, InvalidSpecifier) as error:
            raise PatchParityError(
                f"known issue {entry.get('id', entry)!r} in {path}: {error}"
            ) from None
        lists: dict[str, Any] = {
            name: tuple(getattr(issue, name))
            for name in ("implementations", "machines", "cpu_has", "cpu_lacks", "devices")
        }
        issues.append(dataclasses.replace(issue, **lists))
    return issues


def apply_known_issues(
    results: list[CheckResult],
    issues: list[KnownIssue],
    backends: list[Backend],
    elsewhere: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[CheckResult]:
    """Turn failures that are known into `known`, and add a failure for every entry that is stale or
    names nothing.

    An entry about a behavior explains that behavior alone. One about delivered arithmetic (its
    probe is the fingerprint) explains every failure of the same implementation, device, dtype and
    precision: they have one cause. One about a sharded result explains all verdicts on that
    implementation and device, and what the framework raised there.

    Args:
        results: behaviors and verdicts as found.
        issues: the entries.
        backends: all that there are, installed or not, for the names that entries may use.
        elsewhere: of backends in processes of their own the versions of their packages there.
    """
    versions = {
        name: version for backend in backends for name, version in backend.versions().items()
    }
    names = {
        name
        for backend in backends
        for name in (
            backend.name,
            *(implementation.name for implementation in backend.implementations),
        )
    }
    probes = {*BEHAVIORS, *SHARDED_BEHAVIORS, FINGERPRINT}
    stale = [
        _nothing(issue)
        for issue in issues
        if issue.probe not in probes or not any(map(issue.covers, names))
    ]
    explained: dict[tuple[str | None, ...], KnownIssue] = {}
    judged_results = []
    for result in results:
        probe = FINGERPRINTS.get(result.probe or "", result.probe)
        finding = result.delivered if probe == FINGERPRINT else result.behavior
        place = result.implementation, result.device, result.dtype
        current = [
            issue
            for issue in issues
            if issue.probe == probe
            and issue.covers(*place)
            and issue.applies({**versions, **elsewhere.get(result.backend, {})})
            and issue.precision in ("", result.precision)
        ]
        known = next((issue for issue in current if issue.found == finding), None)
        if known and result.verdict == "fail":
            explained[_scope(result)] = known
        judged_results.append(result)
        if current and not known and result.verdict != "skip":
            message = (
                f"known issue {current[0].id} no longer reproduces here: found {finding!r}, "
                f"not {current[0].found!r}; close its versions"
            )
            stale.append(dataclasses.replace(result, verdict="fail", message=message))
    return [_explained(result, _cause(result, explained)) for result in judged_results] + stale


def _cause(
    result: CheckResult, explained: dict[tuple[str | None, ...], KnownIssue]
) -> KnownIssue | None:
    """The entry that explains a result: its own, or that about all that its implementation gives.

    An error of ours (ranks that ended, say) has another cause.
    """
    own = explained.get(_scope(result)) if result.verdict == "fail" else None
    ours = result.verdict == "error" and result.message.startswith("PatchParityError")
    if own or result.behavior is not None or ours:
        return own
    return next(
        (
            issue
            for (implementation, device, _, probe, *_), issue in explained.items()
            if probe == SHARDED_RESULT
            and (implementation, device) == (result.implementation, result.device)
        ),
        None,
    )


def _scope(result: CheckResult) -> tuple[str | None, ...]:
    """What shares a cause: one behavior of an implementation, or all verdicts on it in one dtype
    and precision."""
    place = result.implementation, result.device, result.dtype
    return (
        (*place, result.probe) if result.behavior is not None else (*place, result.precision, None)
    )


def _explained(result: CheckResult, issue: KnownIssue | None) -> CheckResult:
    if issue is None or result.verdict not in ("fail", "error"):
        return result
    link = f" ({issue.link})" if issue.link else ""
    return dataclasses.replace(result, verdict="known", message=f"{issue.id}: {issue.reason}{link}")


def _nothing(issue: KnownIssue) -> CheckResult:
    return CheckResult(
        ", ".join(issue.implementations),
        "",
        probe=issue.probe,
        verdict="fail",
        message=f"known issue {issue.id} names nothing that is there",
    )
