"""What the help of a command shows: its options in groups, and an example below."""

from typing import Any

from typer.core import TyperCommand

from .given import READING, SUITE
from .semantics_options import SEMANTICS

EXAMPLES = {
    "backends": "patchparity backends",
    "check": "patchparity check mymodel.vit:PatchEmbed",
    "diagnose": "patchparity diagnose mymodel.vit:model --checkpoint vit/",
    "bench": "patchparity bench --case vit-b16-224-b8 --backend torch --out DIR",
    "compare": "patchparity compare OLD NEW --fail-over 5% --markdown -",
    "recommend": "patchparity recommend --case vit_b16 --batch 8 --backend torch",
    "report": "patchparity report DIR --against OLD",
    "keep": "patchparity keep DIR KEPT",
    "run": "patchparity run --preset quick --out DIR",
    "inspect": "patchparity inspect model.safetensors",
    "port": "patchparity port ViT-B_16.npz vit.safetensors --to timm-vit",
    "verify": "patchparity verify one.safetensors other.npz",
    "embed": "patchparity embed model.safetensors images.npy sequence.npy",
}
"""What stands below the help of each command."""

OWN_SHAPE = ("patch_size", "image_size", "embed_dim", "in_channels", "stride")
SUBJECTS = ("case", "backend", "implementation", "peer", "preset", "device", "threads")
TIMED = {
    "What is timed": (*SUBJECTS, "dtype", "precision", "cache", "operation", "list_"),
    "A shape of one's own": OWN_SHAPE,
    "How long": (
        "rounds",
        "generations",
        "precision_goal",
        "time_budget",
        "call_seconds",
        "seed",
    ),
    "Where": ("python", "host"),
}
UNTOLD = ("image_size", "patch_size", "in_channels", "stride", "padding", "ignore")
CHECKPOINT = {
    "Which dialect": ("to", "from_", "prefix", "dialects", "listed"),
    "What no file tells": UNTOLD,
}
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "check": {
        "Somebody's implementation": READING,
        "A whole model": ("checkpoint", *SEMANTICS),
        "The suite's own implementations": (*SUITE, "controls"),
    },
    "diagnose": {
        "Arrays": ("images", "tokens"),
        "Somebody's implementation": ("framework", "module", "init"),
        "Both": tuple(name for name in READING if name not in ("framework", "module", "init")),
        "Resized positions": (
            "positions",
            "resized",
            "grid",
            "new_grid",
            "prefix_rows",
            "resample",
        ),
        "A picture": ("image", "pixels", "preprocess", "preprocess_backend"),
        "A whole model": ("checkpoint", *SEMANTICS),
    },
    "bench": TIMED,
    "run": {"What is checked": ("image", "remainder"), **TIMED},
    "recommend": {
        "What is timed": ("case", "batch", "dtype", "device", "threads", "backend", "peer"),
        "A shape of one's own": OWN_SHAPE,
    },
    "inspect": CHECKPOINT,
    "port": {
        **CHECKPOINT,
        "A whole model": ("whole", "shard_size", *SEMANTICS),
    },
    "verify": CHECKPOINT,
    "embed": {
        "Which dialect": ("from_", "prefix", "dialects"),
        "What no file tells": UNTOLD,
        "A picture": ("preprocess", "preprocess_backend", "rotate"),
    },
}
"""Which options of a command stand together: a title, and names of parameters. What is in no group
stands last, as options."""


def options_in_groups(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """What the help of a command lists: arguments, each group, and what is in none; of each its
    name and its text."""
    groups = GROUPS.get(command.name or "", {})
    title_of = {name: title for title, names in groups.items() for name in names}
    rows: dict[str, list[tuple[str, str]]] = {
        title: [] for title in ("Arguments", *groups, "Options")
    }
    for parameter in command.get_params(context):
        if (row := parameter.get_help_record(context)) is not None:
            argument = parameter.param_type_name == "argument"
            title = "Arguments" if argument else title_of.get(parameter.name or "", "Options")
            rows[title].append(row)
    return {title: entries for title, entries in rows.items() if entries}


class GroupedCommand(TyperCommand):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them."""
        for title, entries in options_in_groups(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(entries)
