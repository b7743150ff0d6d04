"""Files that are known for what they are and not read by themselves: a weight in parts, one shard
of several, Keras before 3."""

import re

from ..files.checkpoint import Checkpoint
from .recognize import Candidate

PARTS = re.compile(
    r"(.*(?:patch|proj|conv|embed)[\w.]*)\."
    r"(weight_[gv]|weight_orig|weight_mask|(?:parametrizations\.)?weight\.original\d?)"
)
"""Tensors of a layer whose weight is computed of several: weight norm in its old and new form,
pruning."""


SHARD = re.compile(r".*(-\d{5}-of-(?!00001\.)\d{5}\.\w+|_\d{5}\.weights\.h5)")
"""Names of one file of several: of transformers and accelerate, of Keras."""


def of_shards(checkpoint: Checkpoint, candidate: Candidate | None) -> str:
    """Why one file of several is not read by itself; empty where all that a stage may hold is in
    it."""
    if not SHARD.fullmatch(checkpoint.path.name):
        return ""
    what = "what else belongs to the stage"
    if candidate and not candidate.dialect.plain:
        # without a mask token the tokens of whole images are the same
        asked = candidate.dialect.entries.keys() - candidate.names.keys() - {"mask_token"}
        if not asked:
            return ""
        what = ", ".join(sorted(asked))
    return (
        f"{checkpoint.path} is one of several shards, and {what} may be in another: give the "
        "folder, or the index"
    )


def in_parts(checkpoint: Checkpoint) -> str:
    """Which layer's weight is in the file in parts alone, in words; empty where none is."""
    for name in checkpoint.tensors:
        if (match := PARTS.fullmatch(name)) and f"{match[1]}.weight" not in checkpoint.tensors:
            return (
                f"{checkpoint.path}: {name} is a part of {match[1]}.weight, which is computed of "
                "several (weight norm, pruning): fold it first (remove_parametrizations, "
                "remove_weight_norm, prune.remove)"
            )
    return ""


def of_old_keras(checkpoint: Checkpoint) -> str:
    """That a file is one of Keras before 3, whose variables' names end in `:0`, or a whole model as
    Keras wrote it then, in words; empty where it is not
    (keras/src/legacy/saving/legacy_h5_format.py)."""
    if checkpoint.format != "h5" or not any(
        name.endswith(":0") or "model_weights/" in name for name in checkpoint.tensors
    ):
        return ""
    return (
        f"{checkpoint.path} is an HDF5 file as Keras wrote it before 3, or transformers its "
        "tf_model.h5, and in no dialect of these that is known: load it into its model with "
        "tf_keras (in transformers before 5 from_pretrained(..., from_tf=True)), and save its "
        "weights as .weights.h5 or safetensors"
    )


def of_arrays(checkpoint: Checkpoint) -> str:
    """That a torch file holds NumPy arrays in the place of tensors, in words; empty where it does
    not."""
    if checkpoint.tensors or not any(name.startswith("numpy.") for name in checkpoint.unbuilt):
        return ""
    return (
        f"{checkpoint.path} holds NumPy arrays, of which nothing is built: torch.save tensors "
        "(torch.from_numpy), or numpy.savez the arrays"
    )
