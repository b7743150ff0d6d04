"""The gallery of mistakes: `diagnose` names each, and the page is what `python -m tests.gallery`
makes."""

import io

import numpy as np
import pytest

from . import gallery

pytest.importorskip("PIL")


NAMES = [example.id for example in gallery.examples()]


def shown_as(name):
    (shown,) = [shown for shown in gallery.gallery() if shown.example.id == name]
    return shown


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_is_named(name):
    shown = shown_as(name)
    assert shown.said.status in ("unique", "tied")
    assert shown.said.mend


def test_the_page_is_what_is_made():
    assert gallery.PAGE.read_text() == gallery.page(), "run python -m tests.gallery"
    kept = {path.stem for path in gallery.PICTURES.glob("*.png")}
    assert kept == set(NAMES)


LIKE = 8
"""Levels of 255 by which pictures may differ in the mean: other processors round other values."""


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_what_is_drawn(name):
    from PIL import Image

    shown = shown_as(name)
    kept, made = (
        np.asarray(Image.open(file).convert("RGB"), float)
        for file in (gallery.PICTURES / f"{shown.example.id}.png", io.BytesIO(shown.picture))
    )
    assert kept.shape == made.shape
    if shown.example.section != "arithmetic":  # whose errors are another processor's others
        assert np.abs(kept - made).mean() < LIKE
