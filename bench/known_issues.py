"""Known issues as data: which surprising behavior is known, in which versions; what no longer reproduces fails."""

import dataclasses
import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from ..backends.base import Backend
from ..reference.errors import PatchParityError
from .behavior import BEHAVIORS
from .verdicts import CheckResult

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
    devices: tuple[str, ...] = ()
    link: str = ""

    def covers(self, implementation: str, device: str | None = None) -> bool:
        """Whether it names an implementation, or a backend for a behavior of the framework; on a device, where one is given."""
        if device is not None and self.devices and device not in self.devices:
            return False
        return any(implementation == name or implementation.startswith(name + ":") for name in self.implementations)

    def applies(self, versions: dict[str, str]) -> bool:
        """Whether these versions and this machine are among those that it is about."""
        try:
            inside = all(
                name in versions and SpecifierSet(wanted).contains(versions[name].split("+")[0], prereleases=True)
                for name, wanted in self.versions.items()
            )
        except InvalidVersion:
            return False
        return inside and (not self.machines or platform.machine() in self.machines)


def load_known_issues(path: Path = KNOWN_ISSUES) -> list[KnownIssue]:
    """Read the entries of a TOML file.

    Raises:
        PatchParityError: a file that cannot be read, an entry that lacks a field, has an unknown one, or a range that is none.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("issue", [])
    except (OSError, ValueError) as error:
        raise PatchParityError(f"cannot read known issues from {path}: {error}") from None
    issues = []
    for entry in entries:
        try:
            issue = KnownIssue(**entry)
            for wanted in issue.versions.values():
                SpecifierSet(wanted)
        except (TypeError, AttributeError, InvalidSpecifier) as error:
            raise PatchParityError(f"known issue {entry.get('id', entry)!r} in {path}: {error}") from None
        lists = {name: tuple(getattr(issue, name)) for name in ("implementations", "machines", "devices")}
        issues.append(dataclasses.replace(issue, **lists))
    return issues


def apply_known_issues(results: list[CheckResult], issues: list[KnownIssue], backends: list[Backend]) -> list[CheckResult]:
    """Turn failures that are known into `known`, and add a failure for every entry that is stale or names nothing.

    Args:
        results: behaviors as found.
        issues: the entries.
        backends: all that there are, installed or not, for the names that entries may use.
    """
    versions = {name: version for backend in backends for name, version in backend.versions().items()}
    names = {name for backend in backends for name in (backend.name, *(each.name for each in backend.implementations))}
    told: list[CheckResult] = []
    stale = [_nothing(issue) for issue in issues if issue.probe not in BEHAVIORS or not any(map(issue.covers, names))]
    for result in results:
        matching = [
            issue for issue in issues if issue.probe == result.probe and issue.covers(result.implementation, result.device)
        ]
        current = [issue for issue in matching if issue.applies(versions)]
        known = next((issue for issue in current if issue.found == result.behavior), None)
        if result.verdict == "fail" and known:
            link = f" ({known.link})" if known.link else ""
            result = dataclasses.replace(result, verdict="known", message=f"{known.id}: {known.reason}{link}")
        told.append(result)
        if current and not known and result.verdict != "skip":
            message = f"known issue {current[0].id} no longer reproduces here: found {result.behavior!r}, not {current[0].found!r}; close its versions"
            stale.append(dataclasses.replace(result, verdict="fail", message=message))
    return told + stale


def _nothing(issue: KnownIssue) -> CheckResult:
    return CheckResult(
        ", ".join(issue.implementations),
        "",
        probe=issue.probe,
        verdict="fail",
        message=f"known issue {issue.id} names nothing that is there",
    )
