"""patchparity: the Vision Transformer patch embedding, one truth and every framework.

Law of this file: it imports nothing when loaded. The repository root is the package, and pytest
imports the `__init__.py` of a test's folder under the *folder's* name; an import here would load
every module a second time under that name. The public names below are therefore lazy (PEP 562) and
resolved by their absolute name.
"""

__version__ = "0.1.0"

# what `typing` calls so: type checkers take it for true, and nothing is imported for it
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backends.base import Backend as Backend
    from .backends.base import Implementation as Implementation
    from .backends.registry import get_backend as get_backend
    from .backends.registry import list_backends as list_backends
    from .backends.registry import list_implementations as list_implementations
    from .bench.answers.compare import compare as compare
    from .bench.answers.recommend import recommend as recommend
    from .bench.check.check import check as check
    from .bench.check.object_diagnosis import diagnose_object as diagnose_object
    from .bench.main_job import run as run
    from .bench.report.render import render_report as render_report
    from .bench.timing.benchmark import benchmark as benchmark
    from .bench.timing.options import BenchOptions as BenchOptions
    from .porting.dialects.sizes import Sizes as Sizes
    from .porting.embed import embed as embed
    from .porting.embed import embed_packed as embed_packed
    from .porting.files.own_format import load_weights as load_weights
    from .porting.files.own_format import save_weights as save_weights
    from .porting.inspection import inspect_checkpoint as inspect_checkpoint
    from .porting.model_diagnosis import diagnose_model as diagnose_model
    from .porting.objects.build import to_module as to_module
    from .porting.objects.transfer import from_module as from_module
    from .porting.objects.transfer import transfer as transfer
    from .porting.port import port as port
    from .porting.preprocess import preprocess as preprocess
    from .porting.verify import verify as verify
    from .porting.whole.port import port_whole as port_whole
    from .reference.controls import negative_controls as negative_controls
    from .reference.diagnosis.diagnose import diagnose as diagnose
    from .reference.diagnosis.pixels import diagnose_pixels as diagnose_pixels
    from .reference.diagnosis.resize import diagnose_resize as diagnose_resize
    from .reference.diagnosis.resize import diagnose_resized_output as diagnose_resized_output
    from .reference.embed import patch_embed as patch_embed
    from .reference.embed import patch_embed_gradients as patch_embed_gradients
    from .reference.encoder import Places as Places
    from .reference.encoder import encode as encode
    from .reference.encoder import encode_blocks as encode_blocks
    from .reference.encoder import rotary_angles as rotary_angles
    from .reference.encoder_weights import EncoderSpec as EncoderSpec
    from .reference.encoder_weights import EncoderWeights as EncoderWeights
    from .reference.encoder_weights import initialize_encoder as initialize_encoder
    from .reference.errors import PatchParityError as PatchParityError
    from .reference.fold import border_pixels as border_pixels
    from .reference.fold import fold_normalization as fold_normalization
    from .reference.initialize import initialize_weights as initialize_weights
    from .reference.patches import patchify as patchify
    from .reference.patches import unpatchify as unpatchify
    from .reference.pixels import resize_pixels as resize_pixels
    from .reference.resize import adapt_channels as adapt_channels
    from .reference.resize import resize_kernel as resize_kernel
    from .reference.resize import resize_positions as resize_positions
    from .reference.sequence import assemble_sequence as assemble_sequence
    from .reference.sequence import sincos_positions as sincos_positions
    from .reference.spec import PatchEmbedSpec as PatchEmbedSpec
    from .reference.weights import PatchEmbedWeights as PatchEmbedWeights
    from .reference.weights import SequenceLayout as SequenceLayout

# Public name -> the module that defines it. `dir(patchparity)` and `from patchparity import ...`
# read this table.
_PUBLIC = {
    "PatchParityError": "patchparity.reference.errors",
    "PatchEmbedSpec": "patchparity.reference.spec",
    "PatchEmbedWeights": "patchparity.reference.weights",
    "SequenceLayout": "patchparity.reference.weights",
    "initialize_weights": "patchparity.reference.initialize",
    "sincos_positions": "patchparity.reference.sequence",
    "assemble_sequence": "patchparity.reference.sequence",
    "patchify": "patchparity.reference.patches",
    "unpatchify": "patchparity.reference.patches",
    "patch_embed": "patchparity.reference.embed",
    "patch_embed_gradients": "patchparity.reference.embed",
    "EncoderSpec": "patchparity.reference.encoder_weights",
    "EncoderWeights": "patchparity.reference.encoder_weights",
    "initialize_encoder": "patchparity.reference.encoder_weights",
    "Places": "patchparity.reference.encoder",
    "encode": "patchparity.reference.encoder",
    "encode_blocks": "patchparity.reference.encoder",
    "rotary_angles": "patchparity.reference.encoder",
    "diagnose": "patchparity.reference.diagnosis.diagnose",
    "diagnose_pixels": "patchparity.reference.diagnosis.pixels",
    "diagnose_resize": "patchparity.reference.diagnosis.resize",
    "diagnose_resized_output": "patchparity.reference.diagnosis.resize",
    "fold_normalization": "patchparity.reference.fold",
    "border_pixels": "patchparity.reference.fold",
    "resize_positions": "patchparity.reference.resize",
    "resize_pixels": "patchparity.reference.pixels",
    "resize_kernel": "patchparity.reference.resize",
    "adapt_channels": "patchparity.reference.resize",
    "diagnose_object": "patchparity.bench.check.object_diagnosis",
    "negative_controls": "patchparity.reference.controls",
    "Backend": "patchparity.backends.base",
    "Implementation": "patchparity.backends.base",
    "list_backends": "patchparity.backends.registry",
    "get_backend": "patchparity.backends.registry",
    "list_implementations": "patchparity.backends.registry",
    "save_weights": "patchparity.porting.files.own_format",
    "load_weights": "patchparity.porting.files.own_format",
    "inspect_checkpoint": "patchparity.porting.inspection",
    "port": "patchparity.porting.port",
    "diagnose_model": "patchparity.porting.model_diagnosis",
    "port_whole": "patchparity.porting.whole.port",
    "Sizes": "patchparity.porting.dialects.sizes",
    "verify": "patchparity.porting.verify",
    "embed": "patchparity.porting.embed",
    "embed_packed": "patchparity.porting.embed",
    "preprocess": "patchparity.porting.preprocess",
    "to_module": "patchparity.porting.objects.build",
    "from_module": "patchparity.porting.objects.transfer",
    "transfer": "patchparity.porting.objects.transfer",
    "check": "patchparity.bench.check.check",
    "BenchOptions": "patchparity.bench.timing.options",
    "benchmark": "patchparity.bench.timing.benchmark",
    "compare": "patchparity.bench.answers.compare",
    "recommend": "patchparity.bench.answers.recommend",
    "run": "patchparity.bench.main_job",
    "render_report": "patchparity.bench.report.render",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Import the module that defines a public name, on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'patchparity' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
