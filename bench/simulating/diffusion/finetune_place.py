"""Where a fine-tuned pipeline comes to lie, and where its training leaves off and goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import UserError
from bench.store import one_line_if_refused, write_json

SETTINGS: Final = "finetune.json"
"""What decided a fine-tuned pipeline; it lies in its folder."""


@dataclass(frozen=True)
class Place:
    """The folder `out`, which appears when it is whole; until then a hidden sibling is worked in.

    .OUT.partial/finetune.json        what is being trained
    .OUT.partial/unet.checkpoint.pt   how far it is
    .OUT.partial/result/              becomes OUT by one rename
    """

    out: Path

    @property
    def work(self) -> Path:
        """The hidden sibling."""
        return self.out.absolute().with_name(f".{self.out.absolute().name}.partial")

    @property
    def checkpoint(self) -> Path:
        """State of the training."""
        return self.work / "unet.checkpoint.pt"

    def is_done(self, settings: dict[str, Any]) -> bool:
        """Whether `out` holds the result of these settings.

        Raises:
            UserError: it holds something else, or a training with other settings has begun there.
        """
        if self.out.exists():
            if settings_of(self.out) != as_json(settings):
                raise UserError(
                    f"{self.out} exists and is not this fine-tuning: remove it or choose another "
                    "--output-dir"
                )
            # Killed between the rename and here.
            shutil.rmtree(self.work, ignore_errors=True)
            return True
        if self.work.exists() and settings_of(self.work) not in (None, as_json(settings)):
            raise UserError(
                f"{self.work} is a training with other settings: type that command again, remove "
                "the folder or choose another --output-dir"
            )
        return False

    def begin(self, settings: dict[str, Any]) -> None:
        """Make the working folder, or find it."""
        write_json(self.work / SETTINGS, settings)

    def finish(self, unet: Any, pretrained: Path, parts: Sequence[str]) -> None:
        """Save the U-Net beside copies of the pretrained parts, and put all in place."""
        result = self.work / "result"
        with one_line_if_refused(self.out):
            shutil.rmtree(result, ignore_errors=True)
            unet.save_pretrained(result / "unet")
            for part in parts:
                shutil.copytree(pretrained / part, result / part)
            shutil.copyfile(self.work / SETTINGS, result / SETTINGS)
            result.rename(self.out.absolute())
            shutil.rmtree(self.work)


def as_json(settings: dict[str, Any]) -> Any:
    """As it is read back: tuples are lists."""
    return json.loads(json.dumps(settings))


def settings_of(folder: Path) -> Any:
    """What decided a fine-tuned pipeline in a folder; None if that is not known."""
    try:
        return json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError):
        return None
