"""Make the source tree importable and compiled, and the `sealwire` command runnable, without a build step."""

from __future__ import annotations

import compileall
import stat
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the path file and the command's script into the running environment, and bytecode beside the sources.

    Without bytecode a start compiles every module anew, half a second of it, wherever Python may not write it itself.
    """
    Path(sysconfig.get_path("purelib"), "sealwire.pth").write_text(f"{ROOT / 'src'}\n", encoding="utf-8")
    command = Path(sysconfig.get_path("scripts"), "sealwire")
    command.write_text(
        f"#!{sys.executable}\nimport sys\n\nfrom sealwire.cli.main import main\n\nsys.exit(main())\n", encoding="utf-8"
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    compileall.compile_dir(ROOT / "src", quiet=1)


if __name__ == "__main__":
    main()
