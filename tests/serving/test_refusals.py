"""What a request may not ask for or hold: each has its status code, its cause and its field; none stops the server."""

import base64
import io
import json

import httpx2
import pytest
from PIL import Image
from serving_model import LOCAL, serving, user

from olivine.serving import image_urls
from olivine.serving.access import Access
from olivine.serving.limits import Limits


def png(width, height, mode="L"):
    made = io.BytesIO()
    Image.new(mode, (width, height)).save(made, "PNG")
    return made.getvalue()


def url_of(content, kind="image/png"):
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def body(**changes):
    return {"model": "tiny", "messages": [user("what?")], "max_tokens": 3, **changes}


def refused(served, request, status, code, **options):
    response = served.post(request, **options) if not isinstance(request, bytes) else None
    if response is None:
        headers = {"Content-Type": "application/json"}
        response = httpx2.post(f"{served.url}/v1/chat/completions", content=request, headers=headers, timeout=30)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert served.post(body()).status_code == 200
    return error


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 9}, "invalid_value", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**6}, "invalid_value", "max_tokens"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"presence_penalty": 0.5}, "unsupported_parameter", "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "hello"}, "invalid_value", "messages"),
        ({"messages": [{"role": "assistant", "content": "no"}]}, "unsupported_conversation", "messages.0.role"),
        ({"messages": [{"role": "system", "content": "no"}]}, "unsupported_conversation", "messages"),
        ({"messages": [user("a"), user("b")]}, "unsupported_conversation", "messages.1.role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "invalid_value", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "unknown_parameter", "messages.0.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "invalid_value",
            "messages.0.content.0",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "invalid_value", "messages.0.content"),
        ({"messages": [user("word " * 20_000)]}, "context_length_exceeded", "messages"),
    ],
)
def test_what_is_wrong_is_named(served, changes, code, param):
    content = json.dumps(body(**changes)).encode()
    assert refused(served, content, 400, code)["param"] == param


def test_ignored_parameters_are_ignored(served):
    plain = served.post(body()).json()["choices"]
    ignored = {"user": "a", "metadata": {"b": "c"}, "tools": [], "presence_penalty": 0, "response_format": None}
    assert served.post(body(**ignored)).json()["choices"] == plain


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"model": ' + b"9" * 9000 + b"}"]
)
def test_wrong_json_is_named(served, content):
    refused(served, content, 400, "invalid_json")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/etc/passwd", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("http://127.0.0.1/a.png", "invalid_image_url"),
        ("data:image/png;base64,%%%", "invalid_image_url"),
        ("data:text/plain;base64,aGVsbG8=", "invalid_image_url"),
        (url_of(b"hello"), "invalid_image"),
        (url_of(b""), "invalid_image"),
        (url_of(png(30, 30)[:50]), "invalid_image"),
        (url_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "invalid_image"),
        (url_of(b"%!PS-Adobe-3.0 EPSF-3.0"), "invalid_image"),
    ],
)
def test_what_is_no_image_is_refused(served, url, code):
    error = refused(served, body(messages=[user("what?", url)]), 400, code)
    assert error["param"] == "messages.0.content.0.image_url.url"
    assert "root:" not in error["message"]


def test_no_file_is_opened_for_a_request(served, tmp_path, monkeypatch):
    import builtins
    import os

    image = tmp_path / "image.png"
    image.write_bytes(png(20, 20))
    opened = []
    for module, name in ((builtins, "open"), (os, "open"), (io, "open")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, *a, _o=original, **k: opened.append(str(path)) or _o(path, *a, **k)
        )
    for url in (str(image), f"file://{image}", f"file:{image}"):
        served.post(body(messages=[user("what?", url)]))
    assert not [path for path in opened if str(tmp_path) in path]


def test_each_limit_has_its_status(tiny):
    limits = Limits(body_bytes=20_000, image_pixels=100 * 100, images=2, new_tokens=4, choices=2, body_seconds=0.5)
    with serving({"tiny": tiny}, limits) as served:
        refused(served, body(messages=[user("a" * 30_000)]), 413, "body_too_large")
        refused(served, body(messages=[user("what?", url_of(png(101, 100)))]), 422, "image_too_large")
        small = url_of(png(10, 10))
        refused(served, body(messages=[user("what?", small, small, small)]), 422, "too_many_images")
        refused(served, body(max_tokens=5), 400, "invalid_value")
        refused(served, body(), 415, "unsupported_media_type", headers={"Content-Type": "text/plain"})
        assert served.post(body(messages=[user("what?", url_of(png(100, 100)))])).status_code == 200
        default = served.post({"model": "tiny", "messages": [user("what?")]}).json()
        assert default["usage"]["completion_tokens"] <= 4


def test_a_header_of_many_pixels_is_refused_before_they_are_decoded(served, monkeypatch):
    monkeypatch.setattr("olivine.serving.served_model.decode_image", lambda *_: pytest.fail("decoded"))
    error = refused(served, body(messages=[user("what?", url_of(png(9000, 9000, "1")))]), 422, "image_too_large")
    assert "9000x9000" in error["message"]


def test_only_who_has_the_token_is_answered(tiny):
    with serving({"tiny": tiny}, access=Access(token="secret")) as served:
        assert served.post(body()).status_code == 401
        assert served.post(body(), headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert served.post(body(), headers={"Authorization": "Bearer secret"}).status_code == 200
        for path, status in (("/v1/models", 401), ("/metrics", 401), ("/health", 200), ("/", 200)):
            assert httpx2.get(served.url + path).status_code == status


def test_another_sites_name_is_no_name_of_this_server(served):
    for host, status in (("evil.example", 403), ("127.0.0.1:1", 200), ("127.0.0.1.evil.example", 403)):
        assert httpx2.get(f"{served.url}/v1/models", headers={"Host": host}).status_code == status
    assert LOCAL.hosts


def test_unknown_routes_have_the_same_form(served):
    for path in ("/v1/completions", "/nothing", "/page/../app.py", "/..%2f..%2fetc%2fpasswd"):
        response = httpx2.get(served.url + path)
        assert response.status_code in (404, 405)
        assert response.json()["error"]["code"] == "no_such_route"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "100.64.0.1"]
)
def test_private_addresses_are_not_fetched(monkeypatch, address):
    monkeypatch.setattr(image_urls.socket, "getaddrinfo", lambda *a, **k: [(0, 0, 0, "", (address, 80))])
    with pytest.raises(Exception, match="public internet"):
        image_urls.image_content("http://example.com/a.png", Limits(fetch=True), "here")


def test_fetching_is_bounded(monkeypatch):
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/image")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            content = png(20, 20) if self.path == "/image" else b"x" * 100_000
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(image_urls, "_public_address", lambda *_: "127.0.0.1")
        url = f"http://example.com:{server.server_port}"
        limits = Limits(fetch=True, fetch_bytes=5000)
        try:
            assert image_urls.image_content(f"{url}/image", limits, "here") == png(20, 20)
            with pytest.raises(Exception, match="more than 5,000 bytes"):
                image_urls.image_content(f"{url}/large", limits, "here")
            with pytest.raises(Exception, match="answered 302"):
                image_urls.image_content(f"{url}/moved", limits, "here")
        finally:
            server.shutdown()
            thread.join()
