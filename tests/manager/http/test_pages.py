"""The pages that a browser gets at the root of a manager."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest

from kruise_agents.manager.http.pages import Pages
from support.managers import RunningManager


def page(authority: str, *, domain: str | None = None, scheme: str = "http") -> str:
    found = Pages(domain).find("/", {"scheme": scheme}, authority)
    assert found is not None
    return bytes(found.body).decode()


@pytest.mark.parametrize("authority", ["localhost:7788", "127.0.0.1:7788", "[::1]:7788", "10.0.0.5"])
def test_the_page_names_the_address_that_was_opened(authority: str) -> None:
    assert f"export E2B_DOMAIN={authority}\n" in page(authority)
    assert "\npatch_e2b(False)</pre>" in page(authority)
    assert "\npatch_e2b()</pre>" in page(authority, scheme="https")
    assert "export E2B_DOMAIN=box.example\n" in page(authority, domain="box.example")


@pytest.mark.parametrize("authority", ["evil.example:7788", "evil.example", "", "<script>", "localhost.evil.example"])
def test_a_name_that_a_stranger_may_own_is_not_repeated(authority: str) -> None:
    text = page(authority)
    assert "export E2B_DOMAIN=your.domain\n" in text
    assert "evil" not in text
    assert "<script" not in text
    assert page("another.example") == text


def test_a_browser_gets_pages_and_fetches_nothing_elsewhere(manager: RunningManager) -> None:
    with httpx.Client(base_url=f"http://{manager.domain}") as browser:
        answer = browser.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        (style,) = re.findall(r"(?s)<style>(.*?)</style>", answer.text)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert manager.api_key not in answer.text
        assert "://" not in answer.text
        links = re.findall(r'(?:href|src)="([^"]+)"', answer.text)
        assert len(links) == 3
        assert [browser.get(link).status_code for link in links] == [200] * 3
        assert browser.head("/").status_code == 200
        assert browser.head("/").content == b""
        assert browser.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
        assert browser.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"
        assert browser.get("/openapi.json").json() == browser.get("/kruise/api/openapi.json").json()


def test_other_requests_at_the_root_are_as_before(manager: RunningManager) -> None:
    with httpx.Client(base_url=f"http://{manager.domain}") as client:
        unmappable = [
            client.post("/"),
            client.get("/nothing"),
            client.get("/", headers={"E2b-Sandbox-Id": "no one", "E2b-Sandbox-Port": "x"}),
        ]
        for answer in unmappable:
            assert (answer.status_code, answer.text[:33]) == (500, "API Error: failed to map request ")
