"""docs/life/legacy-migration.md, step by step: named, used, counted, tried dry, and over at its sunset."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from joserfc import jwt
from joserfc.jwk import OctKey

from sealwire.testing.installation import Installation, Person

SECRET = "an old secret that is long enough 0123456789"
TOML = """
[[auth.legacy]]
key = "{secret}"
alg = "HS256"
tenant = "default"
iss = "https://old.example"
sunset = "{sunset}"
"""
DEADLINE_S = 40.0


def name_issuer(folder: Path, sunset: datetime) -> None:
    (folder / "sealwire.toml").write_text(TOML.format(secret=SECRET, sunset=sunset.strftime("%Y-%m-%dT%H:%M:%SZ")))


def legacy_token(person: Person) -> str:
    now_s = int(time.time())
    claims = {
        "iss": "https://old.example", "sub": person.email, "id": person.user_id, "role": "owner", "iat": now_s,
        "exp": now_s + 3_600,
    }  # fmt: skip
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(SECRET))


def report(data: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "sealwire.cli.main", "legacy", "report", "--data", str(data), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=data.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_a_migration_from_its_first_day_to_its_last(tmp_path: Path) -> None:
    data = tmp_path / "data"
    name_issuer(tmp_path, datetime.now(UTC) + timedelta(days=30))
    place = Installation(data).start()
    try:
        anna = Person(place.url, "anna")
        old = httpx.Client(
            base_url=place.url + "/api/v1", headers={"authorization": f"Bearer {legacy_token(anna)}"}, timeout=15
        )
        assert old.get("/auth/me").json()["user_id"] == anna.user_id
        assert old.get("/crypto/keys").status_code == 403, "low-risk operations only"

        deadline = time.monotonic() + DEADLINE_S
        while (found := report(data)["items"][0])["sessions"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert (found["tenant_id"], found["sessions"], found["users"], found["issuers"]) == ("default", 1, 1, 1)
        soon = (datetime.now(UTC) + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
        (dry,) = report(data, "--refuse-from", soon)["items"]
        assert (dry["would_refuse_sessions"], dry["would_refuse_users"]) == (1, 1)
        answer = anna.http.get("/auth/legacy")
        assert answer.json()["items"][0]["sessions"] == 1
        health = httpx.get(
            f"{place.url}/api/integration-health/jwt-token-adapter", headers={"authorization": f"Bearer {anna.token}"}
        )
        assert health.json()["legacy_tokens_seen"] == 1
        assert old.get("/auth/me").status_code == 200, "a dry run changes nothing"

        assert place.stop() == 0
        name_issuer(tmp_path, datetime.now(UTC) - timedelta(seconds=1))
        assert report(data)["items"][0]["sessions"] == 1, "at rest too"
        place.start()
        old.base_url = httpx.URL(place.url + "/api/v1")
        assert old.get("/auth/me").status_code == 401
    finally:
        place.kill()
