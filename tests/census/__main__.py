"""`python -m tests.census FILE` writes the table of the census."""

import collections
import importlib.metadata
import json
import sys
from pathlib import Path

from . import keras_models, timm_models, transformers_models, vit_pytorch_models
from .outcome import Outcome

WORDS = {
    "right": "read, and the library's own model gives the same",
    "told": "read right when told what no file says",
    "unproved": "read, and the library's own model could not be asked",
    "refused": "refused, with the reason",
    "wrong": "read wrong",
    "unbuilt": "not built, for what was made small does not fit",
}
PREFACE = """# The census

Models of real libraries, tiny and with random weights, as they save them; each file is read, and
what `embed` gives is held against what the library's own model, built from the configuration, feeds
to its first block. `tests/census` fails where one is read wrong, and
`python -m tests.census docs/census.md` writes this page.
"""


def section(title: str, outcomes: dict[str, Outcome]) -> str:
    """One library's part of the page."""
    count = collections.Counter(each.verdict for each in outcomes.values())
    lines = [
        f"## {title}",
        "",
        *(f"* {count[verdict]} {words}" for verdict, words in WORDS.items() if count[verdict]),
        "",
    ]
    lines += ["| model | read as | outcome |", "|---|---|---|"]
    for name, each in sorted(
        outcomes.items(), key=lambda item: (list(WORDS).index(item[1].verdict), item[0])
    ):
        reason = f": {each.reason}" if each.reason else ""
        told = f"{each.verdict}{reason}".replace("|", "¦").replace("\n", " ")
        lines.append(
            f"| {name} | {each.dialect} | {told if len(told) <= 240 else told[:239] + '…'} |"
        )
    return "\n".join(lines) + "\n"


def _titled(name: str) -> str:
    """A library with its version, and what its models are beside."""
    library, comma, more = name.partition(",")
    return f"{library} {importlib.metadata.version(library)}{comma}{more}"


def main(path: str) -> None:
    """Take the census and write the page."""
    parts = [
        (
            "transformers",
            {name: transformers_models.outcome(name) for name in transformers_models.model_types()},
        ),
        (
            "transformers, with other arguments",
            {
                f"{name} {json.dumps(arguments)}": transformers_models.variant(place)
                for place, (name, arguments) in enumerate(transformers_models.VARIANTS)
            },
        ),
        ("timm", {name: timm_models.outcome(name) for name in timm_models.architectures()}),
        ("keras-hub", {name: keras_models.outcome(name) for name in keras_models.MODELS}),
        (
            "vit-pytorch",
            {name: vit_pytorch_models.outcome(name) for name in vit_pytorch_models.models()},
        ),
    ]
    pages = [section(_titled(library), outcomes) for library, outcomes in parts]
    Path(path).write_text("\n".join([PREFACE, *pages]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
