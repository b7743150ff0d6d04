"""The machines that take part in a benchmark: this one, others through ssh, the nodes of a Ray
cluster."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

from ...reference.errors import PatchParityError

LOCAL = "local"
"""What this machine is called in options and records."""

RAY = "ray"
"""What a Ray cluster is called in options: the one that this machine is part of."""
_RAY_ADDRESS = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):[0-9]{1,5}")

CONNECT_SECONDS = 20
"""Time for a connection to stand; nobody is there to type a password either (BatchMode)."""
_SSH_OPTIONS = f"-o BatchMode=yes -o ConnectTimeout={CONNECT_SECONDS}"


@dataclass(frozen=True)
class Host:
    """A machine with patchparity on it.

    Args:
        label: as in rows and records, which name no machine: `local`, `host1`, ..., `node1`, ...
        ssh: destination as ssh takes it, options included; empty for this machine.
        python: the interpreter there; empty for this one's own.
        ray: a Ray cluster, as it was typed: `ray`, or `ray://HOST:PORT`; empty for none.
        node: which of its nodes, by Ray's own name; empty for a cluster whose nodes are not asked
            for yet.
    """

    label: str = LOCAL
    ssh: str = ""
    python: str = ""
    ray: str = ""
    node: str = ""

    def require_reachable(self) -> None:
        """Raise PatchParityError, with ssh's own reason, unless it runs a command there and nothing
        else speaks on the way back."""
        command = ["ssh", *_SSH_OPTIONS.split(), *self.ssh.split(), "echo patchparity"]
        try:
            asked = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=2 * CONNECT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise PatchParityError(
                f"host ssh={self.ssh}: there is no program called ssh here"
            ) from None
        except subprocess.TimeoutExpired:
            raise PatchParityError(
                f"host ssh={self.ssh}: no answer within {2 * CONNECT_SECONDS} s"
            ) from None
        if asked.returncode:
            reason = (
                asked.stderr.strip().splitlines()
                or [f"ssh ended with exit status {asked.returncode}"]
            )[-1]
            raise PatchParityError(
                f"host ssh={self.ssh}: {reason}; expected a machine that ssh reaches without a "
                "password"
            )
        if asked.stdout != "patchparity\n":
            first = next((line for line in asked.stdout.splitlines() if line != "patchparity"), "")
            raise PatchParityError(
                f"host ssh={self.ssh}: a login there prints {first!r} to stdout, which workers "
                "talk through; its start files must print nothing "
                "where nobody is logged in to read it"
            )

    def launch(self, python: str, variables: dict[str, str]) -> str:
        """Say how an interpreter is started with variables, in execnet's words."""
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        start = f"python=env {settings} {shlex.quote(self.python or python)}"
        if not self.ssh:
            return f"popen//{start}"
        return f"ssh={_SSH_OPTIONS} {self.ssh}//{start}"


@dataclass(frozen=True)
class Machine:
    """What is known of a host: its environment, as records describe it, and the memory that is free
    there (of another machine: all it has)."""

    environment: dict[str, Any]
    available_bytes: int | None = None

    @property
    def cores(self) -> int:
        """CPU cores that a process there may use."""
        return int(self.environment["cores"])

    @property
    def devices(self) -> tuple[str, ...]:
        """`cpu`, and `cuda` where there is a GPU."""
        return ("cpu", "cuda") if self.environment["gpus"] else ("cpu",)


def parse_hosts(texts: tuple[str, ...]) -> tuple[Host, ...]:
    """Read `local`, `ssh=DESTINATION[//python=PATH]`, `ray` or `ray://HOST:PORT`, each once; none
    means this machine alone. A cluster is one host here: its nodes tell that they are there.

    Raises:
        PatchParityError: a text that is none of them.
    """
    hosts: list[Host] = []
    for text in dict.fromkeys(texts or (LOCAL,)):
        if text == LOCAL:
            hosts.append(Host())
            continue
        if text == RAY or _RAY_ADDRESS.fullmatch(text):
            hosts.append(Host(RAY, ray=text))
            continue
        fields = dict(part.partition("=")[::2] for part in text.split("//"))
        if not fields.get("ssh") or not set(fields) <= {"ssh", "python"}:
            raise PatchParityError(
                f"host {text!r}: expected local, or ssh=USER@MACHINE, or "
                "ssh=USER@MACHINE//python=PATH, or ray, or ray://HOST:PORT"
            )
        number = 1 + sum(bool(host.ssh) for host in hosts)
        hosts.append(Host(f"host{number}", fields["ssh"], fields.get("python") or "python3"))
    return tuple(hosts)
