"""Finding routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.router import Router


@pytest.fixture
def router() -> Router[str]:
    table: Router[str] = Router()
    table.add("GET", "/a", "a")
    table.add("GET", "/a/{id}", "one")
    table.add("GET", "/a/special", "special")
    table.add("DELETE", "/a/{id}", "gone")
    table.add("GET", "/a/{id}/n/{seq:int}", "numbered")
    table.add("GET", "/tile/*", "tile")
    return table


@pytest.mark.parametrize(
    ("path", "target", "params"),
    [
        ("/a", "a", {}),
        ("/a/x", "one", {"id": "x"}),
        ("/a/special", "special", {}),
        ("/a/x/n/12", "numbered", {"id": "x", "seq": 12}),
        ("/tile/0/x001/067", "tile", {"rest": "0/x001/067"}),
        ("/a/x/n/-1", None, {}),
        ("/a/x/n/1.5", None, {}),
        ("/a/x/n/\u0662", None, {}),
        ("/a//n/1", None, {}),
        ("/b", None, {}),
        ("", None, {}),
        ("/", None, {}),
    ],
)
def test_paths(router, path, target, params):
    found, bound, _ = router.find("GET", path)
    assert found == target
    if target is not None:
        assert bound == params


def test_head_is_answered_by_get_and_other_verbs_are_told(router):
    assert router.find("HEAD", "/a/x")[0] == "one"
    assert router.find("PUT", "/a/x") == (None, {"id": "x"}, ("GET", "DELETE"))


def test_nothing_is_bound_twice(router):
    with pytest.raises(ValueError, match="twice"):
        router.add("GET", "/a/{id}", "again")


@given(st.text())
def test_no_path_breaks_it(path):
    table: Router[str] = Router()
    table.add("GET", "/a/{id}/b/{n:int}", "x")
    found, params, _ = table.find("GET", path)
    assert found is None or isinstance(params["n"], int)
