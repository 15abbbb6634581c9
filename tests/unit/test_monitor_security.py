"""Who gets an answer from the monitor, and who does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from jobtree.monitor import security
from tests.unit.monitor_scene import BEARER, HOST, TOKEN, client
from tests.unit.test_snapshot import Built

FOLDER = security.folder(TOKEN)
READABLE = [
    "/", f"/static/{FOLDER}/app.js", f"/static/{FOLDER}/uplot/uPlot.esm.js", "/api/v1/trees", "/api/v1/trees/1",
    "/api/v1/trees/1/history", "/api/v1/trees/1/jobs", "/api/v1/openapi.json", "/metrics",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    made = Built(tmp_path_factory.mktemp("tree") / "tree")
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def stranger(built: Built) -> Iterator[TestClient]:
    """A client that sends no token by itself."""
    with client(built.paths.root, token=False) as made:
        yield made


# -- the token -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READABLE)
def test_with_the_token_it_is_there(path: str, stranger: TestClient) -> None:
    assert stranger.get(path, headers=BEARER).status_code == 200
    if not path.startswith("/static/"):
        assert stranger.get(path, params={"token": TOKEN}).status_code == 200


@pytest.mark.parametrize("path", [*READABLE, "/api/v1/events", "/nothing", "/static", "/static/", "/docs"])
@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({}, ""),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": f"Bearer {TOKEN}x"}, ""),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, ""),
        ({"authorization": f"Basic {TOKEN}"}, ""),
        ({"authorization": "Bearer wrong"}, f"?token={TOKEN}"),
        ({"cookie": f"token={TOKEN}"}, ""),
        ({}, "?token="),
        ({}, "?token=wrong"),
        ({}, f"?Token={TOKEN}"),
        ({}, f"?token={TOKEN}&token=wrong"),
        ({}, "?token=%FF%00"),
    ],
)
def test_without_it_there_is_nothing(
    path: str, headers: dict[str, str], query: str, stranger: TestClient
) -> None:
    path = path.replace(FOLDER, FOLDER[:-1] + "x")  # the name of the folder is the proof there
    answer = stranger.get(path + query, headers=headers)
    assert answer.status_code == 401
    assert list(answer.json()) == ["error"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_folder_does_not_tell_the_token() -> None:
    assert TOKEN not in FOLDER
    assert security.folder(security.new_token()) != FOLDER
    assert security.is_token(security.new_token())
    assert not security.is_token("t" * 31)


# -- who asks, and whom ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:9000", "127.0.0.1:65535"])
def test_names_of_this_machine(host: str, stranger: TestClient) -> None:
    assert stranger.get("/", headers={**BEARER, "host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example",
     "0.0.0.0:8765", "192.168.0.7:8765", "127.0.0.1:", "127.0.0.1:8765:1", "", "[::1", "localhost:http"],
)  # fmt: skip
def test_a_site_that_points_its_name_to_this_machine_gets_nothing(host: str, stranger: TestClient) -> None:
    answer = stranger.get("/api/v1/trees", headers={**BEARER, "host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_pages_of_other_sites_get_nothing(headers: dict[str, str], stranger: TestClient) -> None:
    answer = stranger.get("/api/v1/trees", headers={**BEARER, **headers})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_our_page_and_links_to_it_get_an_answer(stranger: TestClient) -> None:
    own = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert stranger.get("/api/v1/trees", headers={**BEARER, **own}).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert stranger.get("/", params={"token": TOKEN}, headers=link).status_code == 200


# -- changing something ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_a_token_in_the_address_changes_nothing(method: str, stranger: TestClient) -> None:
    """A form or a link of another site may have an address that somebody has seen, and can send no such header."""
    answer = stranger.request(method, "/api/v1/trees/1/retry", params={"token": TOKEN})
    assert answer.status_code == 401


def test_what_only_reads_cannot_be_written_to(stranger: TestClient) -> None:
    for path in READABLE:
        assert stranger.post(path, headers=BEARER).status_code == 405


@pytest.mark.parametrize("length", ["100000", "-1", "many", "1e3", "²"])
def test_large_requests_are_refused_before_they_are_read(length: str, stranger: TestClient) -> None:
    headers = {**BEARER, "content-length": length}
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    answer = stranger.post("/api/v1/trees/1/retry", headers=raw)
    assert answer.status_code == 413


def test_requests_of_unknown_length_are_refused(stranger: TestClient) -> None:
    answer = stranger.post("/api/v1/trees/1/retry", headers=BEARER, content=iter([b"{}"]))
    assert answer.status_code == 413


# -- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"/static/{FOLDER}/../../../cli/monitor.py",
        f"/static/{FOLDER}/..%2F..%2Fserver.py",
        f"/static/{FOLDER}/%2e%2e/server.py",
        f"/static/{FOLDER}//etc/passwd",
        f"/static/{FOLDER}/%2Fetc%2Fpasswd",
        f"/static/{FOLDER}/uplot/../../server.py",
        f"/static/{FOLDER}/app.js%00.html",
        f"/static/{FOLDER}/index.html",
        f"/static/{FOLDER}/",
        "/api/v1/trees/..",
        "/api/v1/trees/1/../../../etc/passwd",
        "/api/v1/trees/%2e%2e%2f1",
        "/api/v1/trees/01",
        "/api/v1/trees/0",
        "/api/v1/trees/-1",
        "/api/v1/trees/1%00",
    ],
)
def test_no_path_leads_out(path: str, stranger: TestClient) -> None:
    answer = stranger.get(path, headers=BEARER)
    assert answer.status_code in (401, 404)


@pytest.mark.parametrize(
    "job", ["%2e%2e", "%2e%2e%2fconfig.json", "%2Fetc%2Fpasswd", "1-2%2F..%2F3", "1", "1-2-3", "a-b"]
)
def test_no_name_of_a_job_is_a_path(job: str, stranger: TestClient) -> None:
    for path in (f"/api/v1/trees/1/jobs/{job}", f"/api/v1/trees/1/jobs/{job}/log"):
        assert stranger.get(path, headers=BEARER).status_code in (400, 404, 401)


# -- every answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*READABLE, "/nothing"])
@pytest.mark.parametrize("headers", [BEARER, {}], ids=["known", "unknown"])
def test_no_answer_lets_anything_from_elsewhere_in(
    path: str, headers: dict[str, str], stranger: TestClient
) -> None:
    answer = stranger.get(path, headers=headers)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers


def test_the_page_has_no_script_and_no_style_in_it(stranger: TestClient) -> None:
    page = stranger.get("/", headers=BEARER).text
    assert TOKEN not in page
    assert "@FOLDER@" not in page
    for forbidden in ("<style", "style=", "onclick", "javascript:", "http://", "https://"):
        assert forbidden not in page
    assert page.count("<script") == page.count('<script type="module" src="/static/')
