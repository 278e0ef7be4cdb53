"""How far a long verification is: a line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import typer

TERMINAL_EVERY_S = 0.25
ELSEWHERE_EVERY_S = 10.0


class Progress:
    """Told how many records are checked; says so on stderr when it takes longer."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        """How many there are, 0 while that is not known."""
        self._monotonic = monotonic
        self._terminal = sys.stderr.isatty()
        self._every_s = TERMINAL_EVERY_S if self._terminal else ELSEWHERE_EVERY_S
        self._due_s = monotonic() + self._every_s
        self._shown = False

    def __call__(self, records: int) -> None:
        """Hear how many records are checked."""
        if self._monotonic() < self._due_s:
            return
        self._due_s = self._monotonic() + self._every_s
        self._shown = True
        of = f" of {self.total:,} ({records * 100 // self.total} %)" if self.total else ""
        said = f"{records:,}{of} records"
        typer.echo(f"\r{said}" if self._terminal else said, err=True, nl=not self._terminal)

    def end(self) -> None:
        """Leave the line."""
        if self._shown and self._terminal:
            typer.echo("", err=True)
