"""What each engine supplies to a simulation: the courses of its stays and the painter of its films.

Engines other than the procedural one are imported only when they are asked for: they need torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.errors import UserError
from bench.simulating.painter import Painter
from bench.simulating.populate import CourseMaker, one_course
from bench.simulating.procedural import ProceduralPainter
from bench.simulating.sizes import Decoder, Engine
from bench.simulating.writing import Settings

CACHE: Final = Path("data") / "engines"
"""Where trained engines lie, by the hash of what decides them."""


def courses_of(settings: Settings) -> CourseMaker:
    """How the courses of stays are made."""
    if settings.engine is not Engine.IMAGE_LONGITUDINAL:
        return one_course
    from bench.simulating.image_longitudinal.courses import AssociatedCourses

    return AssociatedCourses(settings.options["association"])


def painter_of(settings: Settings, jobs: int, cache: Path = CACHE) -> Painter:
    """Who draws the films; trains what is not in the cache of trained engines yet.

    Raises:
        UserError: the engine cannot draw films of this size.
    """
    size, nuisance = settings.film_size, settings.knobs.nuisance
    if settings.engine is Engine.PIE:
        from bench.simulating.pie.painter import pie_painter

        return pie_painter(size, settings.seed, jobs, cache, nuisance)
    decoder = settings.options.get("decoder", Decoder.PROCEDURAL)
    if decoder != Decoder.PROCEDURAL:
        from bench.simulating.image_longitudinal.decoders import Recipe
        from bench.simulating.image_longitudinal.painter import decoding_painter

        return decoding_painter(size, nuisance, Recipe.of(settings.options), cache, jobs)
    return ProceduralPainter(size, nuisance)


def check(settings: Settings) -> None:
    """Raise `UserError` if the engine cannot make what is asked for."""
    if settings.mimic_iv and settings.engine is Engine.IMAGE_LONGITUDINAL:
        raise UserError(
            "--engine image-longitudinal makes its own series: leave --mimic-iv out, "
            "or choose another engine"
        )
