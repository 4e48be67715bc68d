"""Where a cohort comes from: simulated or real, under a use agreement or open."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError

SIMULATION = "simulation.json"
"""What the simulator leaves beside the raw folders it writes."""

DEMO_MARK = "demo_subject_id.csv"
"""A file that only the open MIMIC-IV demo has."""


@dataclass(frozen=True)
class Provenance:
    """What tables, figures and the manifest say about a cohort's origin.

    title: one phrase
    simulated: any part of it is simulated
    credentialed: any part of it is under a use agreement
    """

    title: str
    simulated: bool
    credentialed: bool

    def secret(self) -> bytes:
        """Key of the hashed identifiers: random if anybody must not guess it, else reproducible."""
        if self.credentialed:
            return secrets.token_bytes(16)
        return hashlib.sha256(self.title.encode()).digest()[:16]


def find_simulation(*roots: Path) -> dict[str, Any] | None:
    """What the simulator says about these folders (a file in or beside one), or None.

    Raises:
        UserError: the file is not JSON.
    """
    for root in roots:
        for folder in (root, root.absolute().parent):
            path = folder / SIMULATION
            if path.is_file():
                return _read(path)
    return None


def provenance(
    mimic_iv: Path, mimic_cxr: Path, imagenome: Path, *, marked_simulated: bool, marked_open: bool
) -> Provenance:
    """Tell where raw folders come from.

    Args:
        mimic_iv, mimic_cxr, imagenome: the raw folders
        marked_simulated: the user says that (part of) them is simulated; what is not known to be
            open counts as credentialed all the same
        marked_open: the user says that they are under no use agreement
    """
    films, stays = find_simulation(mimic_cxr, imagenome), find_simulation(mimic_iv)
    if stays is not None and not stays.get("mimic_iv"):
        return Provenance(_simulated_title(stays), simulated=True, credentialed=False)
    # Real stays, perhaps with films simulated for them: under the agreement unless it is the demo.
    is_open = marked_open or (mimic_iv / DEMO_MARK).is_file()
    name = "mimic-iv demo" if is_open else "mimic-iv"
    if films is not None:
        return Provenance(f"{name} stays, simulated films", True, credentialed=not is_open)
    if marked_simulated:
        return Provenance("simulated cohort", simulated=True, credentialed=not is_open)
    return Provenance(f"{name}, mimic-cxr", simulated=False, credentialed=not is_open)


def _simulated_title(simulation: dict[str, Any]) -> str:
    parts = ["simulated cohort"]
    if "size" in simulation:
        parts.append(str(simulation["size"]))
    if "seed" in simulation:
        parts.append(f"seed {simulation['seed']}")
    if simulation.get("engine", "procedural") != "procedural":
        parts.append(str(simulation["engine"]))
    options = simulation.get("options", {})
    parts += [f"{name} {options[name]}" for name in ("decoder", "association") if name in options]
    return ", ".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}): simulate again")
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object: simulate again")
    return content
