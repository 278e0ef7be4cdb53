"""Make services/auth/known_passwords.bin from a list of passwords, the most common first, and say what it covers.

The file in the repository was made from the million most common of the ten million passwords that Mark Burnett
published in 2015, in the order of SecLists (`10-million-password-list-top-1000000.txt`). It holds none of them: only a
part of a hash of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from sealwire.services.auth.known_passwords import FILE, KnownPasswords, digest, stem
from sealwire.services.auth.password_rules import MAX_CHARS, MIN_CHARS, PasswordRules, normalised

STEMS_OF = 10_000
"""Of that many the stem counts too, so that a year or a digit more makes no new password of it."""
SHOWN = (3_000, 10_000, 100_000)


def fitting(lines: Iterable[str]) -> list[str]:
    """Return the passwords that the rule of length lets pass, in the order of the list."""
    return [line for line in lines if len(normalised(line)) >= MIN_CHARS and len(line) <= MAX_CHARS]


def make(passwords: list[str], path: Path) -> None:
    """Write the digests of what no other rule refuses."""
    rules = PasswordRules(known=None)
    left = [(rank, normalised(p).casefold()) for rank, p in enumerate(passwords) if rules.weakness(p) is None]
    digests = {digest(folded) for _, folded in left}
    digests |= {digest(stem(folded)) for rank, folded in left if rank < STEMS_OF}
    path.write_bytes(b"".join(sorted(digests)))


def main() -> None:
    """Make the file and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path)
    parser.add_argument("--into", type=Path, default=FILE)
    parser.add_argument("--look", action="store_true", help="count only")
    arguments = parser.parse_args()
    passwords = fitting(arguments.list.read_text("utf-8", errors="replace").splitlines())
    if not arguments.look:
        make(passwords, arguments.into)
    with_file, without = PasswordRules(known=KnownPasswords(arguments.into)), PasswordRules(known=None)
    print(f"{len(passwords)} passwords of {MIN_CHARS} characters and more; {arguments.into.stat().st_size} bytes")
    for count in SHOWN:
        first = passwords[:count]
        by_all, by_rules = (sum(rules.weakness(p) is not None for p in first) for rules in (with_file, without))
        print(f"of the first {len(first)}: {by_all} refused, {by_rules} of them by words and rows alone")


if __name__ == "__main__":
    main()
