"""An installation that people reach by https, through a proxy that ends TLS."""

from __future__ import annotations

import httpx

from sealwire.testing.installation import PASSWORD, Installation, Person


def test_the_cookie_is_for_https_and_counts(tmp_path):
    env = {"SEALWIRE_SERVER__PUBLIC_URL": "https://chat.example.org"}
    installation = Installation(tmp_path / "data", env=env).start()
    try:
        anna = Person(installation.url, "anna")
        answer = httpx.post(
            f"{installation.url}/api/v1/auth/login", json={"email": anna.email, "password": PASSWORD, "cookie": True}
        )
        name, _, rest = answer.headers["set-cookie"].partition("=")
        assert name == "__Host-sealwire"
        assert rest.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
        cookie = {"cookie": f"{name}={rest.partition(';')[0]}"}
        assert httpx.get(f"{installation.url}/api/v1/auth/me", headers=cookie).status_code == 200
        left = httpx.post(f"{installation.url}/api/v1/auth/logout", headers={**cookie, "x-sealwire-csrf": "1"})
        assert (left.status_code, left.headers["set-cookie"].partition(";")[0]) == (204, "__Host-sealwire=")
    finally:
        installation.kill()
