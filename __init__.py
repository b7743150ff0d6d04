"""patchparity: the Vision Transformer patch embedding, one truth and every framework.

Law of this file: it imports nothing when loaded. The repository root is the package, and pytest imports the `__init__.py` of
a test's folder under the *folder's* name; an import here would load every module a second time under that name. The public
names below are therefore lazy (PEP 562) and resolved by their absolute name.
"""

__version__ = "0.1.0"

# Public name -> the module that defines it. `dir(patchparity)` and `from patchparity import ...` read this table.
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
    "diagnose": "patchparity.reference.diagnosis",
    "diagnose_object": "patchparity.bench.check.objects",
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
    "Sizes": "patchparity.porting.dialects.sizes",
    "verify": "patchparity.porting.verify",
    "embed": "patchparity.porting.embed",
    "to_module": "patchparity.porting.objects.build",
    "from_module": "patchparity.porting.objects.transfer",
    "transfer": "patchparity.porting.objects.transfer",
    "check": "patchparity.bench.check.suite",
    "BenchOptions": "patchparity.bench.timing.options",
    "benchmark": "patchparity.bench.timing.pytest_run",
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
