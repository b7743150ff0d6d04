"""Models of transformers: none is read silently wrong, and most are read."""

from . import transformers_models
from .demands import needs, require_none_wrong


def test_transformers():
    needs("torch", "transformers")
    require_none_wrong(
        {name: transformers_models.outcome(name) for name in transformers_models.model_types()}, 220
    )


def test_transformers_models_made_with_other_arguments():
    needs("torch", "transformers")
    names = [f"{name} {arguments}" for name, arguments in transformers_models.VARIANTS]
    require_none_wrong(
        {name: transformers_models.variant(place) for place, name in enumerate(names)}, 98
    )


def test_live_models_of_transformers():
    needs("torch", "transformers")
    names = transformers_models.LIVE
    require_none_wrong({name: transformers_models.live_outcome(name) for name in names}, len(names))


def test_a_wrong_reading_is_seen(monkeypatch):
    """The census would see a stage that is read wrong: here positions that are added to other
    tokens."""
    needs("torch", "transformers")
    import dataclasses

    from . import outcome

    read = outcome.read_stage

    def shifted(checkpoint):
        stage = read(checkpoint)
        positions = stage.weights.positions[::-1].copy()
        return dataclasses.replace(
            stage, weights=dataclasses.replace(stage.weights, positions=positions)
        )

    monkeypatch.setattr(outcome, "read_stage", shifted)
    assert transformers_models.outcome.__wrapped__("vit").verdict == "wrong"
