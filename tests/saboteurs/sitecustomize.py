"""Breaks one thing in every Python process that has this folder and the repository on its path.

`SABOTEUR` names a row of `saboteurs.py`. It is told of each module it wants to break as soon as
that module is loaded, so the product itself needs no switch and contains none.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from tests.saboteurs.saboteurs import SABOTEURS, Saboteur


class _Breaking(importlib.abc.MetaPathFinder):
    """Finds a module as usual, and lets the saboteur at it after it was executed."""

    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        damage = self._saboteur.breaks.get(fullname)
        if damage is None or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def broken(module: ModuleType) -> None:
            execute(module)
            damage(module)

        spec.loader.exec_module = broken  # type: ignore[method-assign]
        return spec


chosen = os.environ.get("SABOTEUR")
if chosen is not None:
    sys.meta_path.insert(0, _Breaking(SABOTEURS[chosen]))
