"""`sealwire check` with somebody's own token: on logs that are long before it comes."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from sealwire.cli import check
from sealwire.cli.check import PREFIX, Failed, Person, SelfTest

ME = f"{PREFIX}/auth/me"
RUNNING = {"ok": False, "records": 0, "first_bad_seq": None, "fault": None, "job_id": "j", "progress": 0.0}


class Installation(SelfTest):
    """Answers as an installation whose log somebody filled before; `records` says whether requests are recorded."""

    def __init__(self, http: aiohttp.ClientSession, *, records: bool = True) -> None:
        super().__init__(url="http://127.0.0.1:9", token="token", http=http)
        self._owner = Person({"access_token": "token", "user": {"user_id": "ann", "tenant_id": "default"}})
        self.recorded = records
        self.log = [self.record(ME, "old")] + [self.record(f"{PREFIX}/conversations", "x")] * 150
        self.job: list[dict[str, Any]] = []

    @staticmethod
    def record(url: str, trace_id: str) -> dict[str, Any]:
        return {"action": f"GET_{url}", "metadata": {"url": url, "trace_id": trace_id}}

    async def _call(self, verb: str, path: str, person: Person | None = None, **options: Any) -> Any:
        asked = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if asked.path == ME and self.recorded:
            self.log.append(self.record(ME, options.get("headers", {}).get("traceparent", "--").split("-")[1]))
        elif asked.path == f"{PREFIX}/compliance/audit":
            items = [item for item in self.log if query.get("action", item["action"]) == item["action"]]
            return {"items": items[: int(query.get("limit", 100))]}
        elif asked.path.startswith(f"{PREFIX}/compliance/audit/verify"):
            return self.job.pop(0)
        return {}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PATIENCE_S", 0.2)


async def test_the_record_of_a_request_is_found_behind_all_those_of_before() -> None:
    async with aiohttp.ClientSession() as http:
        installation = Installation(http)
        del installation.log[0]
        await installation._gateway_audit()


async def test_a_request_that_is_not_recorded_is_noticed_although_one_like_it_was() -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(Failed, match="the record of GET /auth/me"):
            await Installation(http, records=False)._gateway_audit()


async def test_a_verification_that_takes_a_job_is_waited_for() -> None:
    async with aiohttp.ClientSession() as http:
        installation = Installation(http)
        whole = {**RUNNING, "ok": True, "records": 200_000, "progress": 1.0}
        installation.job = [RUNNING, {**RUNNING, "records": 90_000, "progress": 0.45}, whole]
        await installation._audit_logging()
        installation.job = [RUNNING, {**whole, "ok": False, "first_bad_seq": 7, "fault": "changed: it"}]
        with pytest.raises(Failed, match="breaks at seq 7: changed: it"):
            await installation._audit_logging()
