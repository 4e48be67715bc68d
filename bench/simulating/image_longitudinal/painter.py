"""Films that a trained decoder draws: film j is decode(z of the subject, severities at t_j)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench.simulating.acquisition import ZOOM, View, draw_view, expose
from bench.simulating.boxes import film_boxes, region_boxes
from bench.simulating.film import Film
from bench.simulating.geometry import Geometry, heart
from bench.simulating.image_longitudinal.decoders import FilmDecoder, Recipe, load_decoder
from bench.simulating.image_longitudinal.training import conditions_of
from bench.simulating.painter import Sitter
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.shapes import whole_grid
from bench.simulating.streams import Tag, stream
from bench.simulating.threads import one_thread


@dataclass(frozen=True)
class DecodingPainter:
    """Decodes films in a standard exposure, enlarges them and exposes them as others are.

    size: pixels a side of the film, whatever the decoder's; nuisance: how much exposures differ
    recipe, root: which decoder, and the cache that holds it
    """

    size: int
    nuisance: float
    recipe: Recipe
    root: Path

    def paint(self, sitter: Sitter) -> list[Film]:
        """One film per row of `sitter.severity`; boxes are a typical patient's."""
        rng = stream(sitter.seed, Tag.ANATOMY, sitter.subject, 1)
        z = rng.standard_normal(self.recipe.training.config.latent, dtype=np.float32)
        conditions = conditions_of(sitter.severity, sitter.ventilated)
        n, seed = len(conditions), int(rng.integers(2**62))
        decode = _loaded(self.recipe, self.root)
        with one_thread():
            grey = decode(torch.from_numpy(z).expand(n, -1), conditions, [seed] * n)
        images = F.interpolate(grey, self.size, mode="bicubic", antialias=True)[:, 0].numpy()
        return [
            self._exposed(image, severity, stream(sitter.seed, Tag.FILM, sitter.subject, k))
            for k, (image, severity) in enumerate(zip(images, sitter.severity, strict=True))
        ]

    def _exposed(self, image: np.ndarray, severity: np.ndarray, rng: np.random.Generator) -> Film:
        view = draw_view(rng, self.nuisance)
        return Film(
            image=expose(image, np.zeros_like(image), _undone(view), rng),
            boxes=film_boxes(_boxes(severity), view, self.size, rng, self.nuisance),
            view=view,
        )


def decoding_painter(
    size: int, nuisance: float, recipe: Recipe, root: Path, jobs: int
) -> DecodingPainter:
    """A painter whose decoder is there: trained now if it is not in the cache `root`."""
    load_decoder(recipe, root, jobs)
    return DecodingPainter(size, nuisance, recipe, root)


@lru_cache(maxsize=1)
def _loaded(recipe: Recipe, root: Path) -> FilmDecoder:
    """Once in every worker process."""
    return load_decoder(recipe, root)


def _undone(view: View) -> View:
    """The decoder learned from films that were already enlarged by `ZOOM`."""
    return replace(view, scale=view.scale / ZOOM)


def _boxes(severity: np.ndarray) -> dict[str, tuple[float, float, float, float]]:
    geometry = Geometry()
    level = float(severity[FILM_SEVERITIES.index("heart")])
    return region_boxes(geometry, heart(whole_grid(256), geometry, level) > 0.5)
