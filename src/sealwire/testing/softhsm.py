"""A real SoftHSM2 token in a folder, and a PKCS#11 library in front of it that fails when it is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from sealwire.adapters.hsm.pkcs11 import TokenPlace

LIBRARIES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PIN: Final = "correct-4711"
LABEL: Final = "sealwire-test"
KEY: Final = "sealwire-kek"
SOURCE: Final = Path(__file__).with_name("faulty_token.c")


def library() -> str | None:
    """Return where SoftHSM2 is installed, None when it isn't."""
    if shutil.which("softhsm2-util") is None:
        return None
    return next((path for path in LIBRARIES if Path(path).exists()), None)


class SoftHsm:
    """One token in a folder. `place` is how a provider finds it; `remove` and `insert` take it away and back.

    Sets SOFTHSM2_CONF for this process and its children; a test restores it by `monkeypatch.setenv` beforehand.
    """

    def __init__(self, folder: Path) -> None:
        """Make and initialise the token. Raises: RuntimeError without SoftHSM2."""
        found = library()
        if found is None:
            raise RuntimeError("SoftHSM2 is not installed")
        self.module = found
        self.folder = folder
        self.tokens = folder / "tokens"
        self.tokens.mkdir(parents=True)
        self.conf = folder / "softhsm2.conf"
        self.conf.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(self.conf)
        self.pin = folder / "pin"
        self.set_pin_file(PIN)
        self.initialise(LABEL)

    def initialise(self, label: str) -> None:
        """Make a token with this label."""
        subprocess.run(  # noqa: S603 - a test's own command
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-4711"],  # noqa: S607 - found by PATH as installed
            check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(self.conf)},
        )  # fmt: skip

    def set_pin_file(self, pin: str) -> None:
        """Put a PIN into the file, as an operator would: a new file in its place."""
        draft = self.folder / "pin.new"
        draft.write_text(pin + "\n")
        draft.chmod(0o600)
        draft.replace(self.pin)

    def place(self, **changes: object) -> TokenPlace:
        """Return where the token is."""
        members = {"module": self.module, "token": LABEL, "key": KEY, "pin": f"file:{self.pin}", **changes}
        return TokenPlace(**members)  # type: ignore[arg-type]  # the names are checked by the struct

    def remove(self) -> None:
        """Take the token away."""
        self.tokens.rename(self.folder / "drawer")

    def insert(self) -> None:
        """Put it back."""
        (self.folder / "drawer").rename(self.tokens)

    def faulty(self) -> FaultyToken:
        """Return a library in front of this token's. Raises: RuntimeError without a C compiler."""
        return FaultyToken(self.folder, behind=self.module)


class FaultyToken:
    """SoftHSM behind a library that answers an error, hangs or dies on the next decryption, as told by a file.

    It also counts logins, and says what the token is as ordered.
    """

    def __init__(self, folder: Path, *, behind: str) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("there is no C compiler")
        self.module = str(folder / "faulty_token.so")
        self._orders = folder / "orders"
        subprocess.run(  # noqa: S603 - a test's own command
            [compiler, "-shared", "-fPIC", "-O1", f'-DBEHIND="{behind}"', f'-DORDERS="{self._orders}"', "-o",
             self.module, str(SOURCE), "-ldl"],
            check=True,
        )  # fmt: skip

    def order(self, what: str) -> None:
        """Have it answer with a code (`0xb3`), `hang` or `die`, once for each new process (`once`) or always.

        Or `flags 0x40000`: the token has these flags too; `without 0x1087`: it lacks a mechanism.
        """
        self._orders.write_text(what)

    @property
    def logins(self) -> int:
        """How often anybody tried to log in."""
        counted = self._orders.with_name(f"{self._orders.name}.logins")
        return counted.stat().st_size if counted.exists() else 0

    def relent(self) -> None:
        """Have it work again."""
        self._orders.unlink(missing_ok=True)
