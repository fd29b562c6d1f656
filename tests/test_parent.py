"""The parent proxy that the environment names, and whom it is not asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullthrough.parent import ParentError, ParentProxies, ParentProxy, parse

PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        (PROXY, "http", "proxy.test", 3128),
        ("proxy.test:3128", "http", "proxy.test", 3128),
        ("http://proxy.test", "http", "proxy.test", 80),
        ("https://proxy.test", "https", "proxy.test", 443),
        ("http://PROXY.test:3128/", "http", "proxy.test", 3128),
        ("http://[::1]:3128", "http", "::1", 3128),
        ("10.0.0.1:8080", "http", "10.0.0.1", 8080),
    ],
)
def test_a_proxy_is_read_as_curl_does(url: str, scheme: str, host: str, port: int) -> None:
    proxy = parse(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.authorization) == (scheme, host, port, None)
    assert proxy.via == (scheme, (host, port))


@pytest.mark.parametrize(
    ("userinfo", "authorization"),
    [
        ("user:pass", "Basic dXNlcjpwYXNz"),
        ("user", "Basic dXNlcjo="),
        ("user:p%40s%2Fs%3A", "Basic dXNlcjpwQHMvczo="),
        ("user:pass@word", "Basic dXNlcjpwYXNzQHdvcmQ="),
        ("us%C3%A9r:p", "Basic dXPDqXI6cA=="),
    ],
)
def test_credentials_are_kept_apart(userinfo: str, authorization: str) -> None:
    proxy = parse(f"http://{userinfo}@proxy.test:3128")
    assert proxy.authorization == authorization
    for shown in (proxy.url, str(proxy), repr(proxy)):
        assert "proxy.test:3128" in shown
        assert "user" not in shown
        assert "Basic" not in shown


def test_an_ipv6_proxy_is_shown_in_brackets() -> None:
    assert ParentProxy("http", "::1", 3128).url == "http://[::1]:3128"


@pytest.mark.parametrize("value", ["http://", "http://:80", "http://a:b", "http://a:99999", "http://[::1", "://"])
def test_nonsense_is_refused_by_name(value: str) -> None:
    with pytest.raises(ParentError, match=r"^HTTPS_PROXY: "):
        ParentProxies({"HTTPS_PROXY": value})


def test_other_kinds_of_proxies_are_refused_by_name() -> None:
    with pytest.raises(ParentError, match=r"^ALL_PROXY: socks5 is not supported; only http and https proxies are$"):
        ParentProxies({"ALL_PROXY": "socks5://user:secret@proxy.test:1080"})


@given(st.text())
def test_no_refusal_repeats_the_password(password: str) -> None:
    value = f"http://user:s3cret{password}s3cret@proxy.test:3128"
    said = ""
    try:
        ParentProxies({"https_proxy": value})
    except ParentError as error:
        said = str(error)
    assert "s3cret" not in said


# -- which variable


def towards(environ: dict[str, str], scheme: str = "https", host: str = "registry.test", port: int = 443) -> str | None:
    proxy = ParentProxies(environ).towards(scheme, host, port)
    return None if proxy is None else proxy.host


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://s"}, "s", None),
        ({"HTTP_PROXY": "http://p"}, None, "p"),
        ({"http_proxy": "http://p", "https_proxy": "http://s"}, "s", "p"),
        ({"https_proxy": "http://low", "HTTPS_PROXY": "http://up"}, "low", None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up"}, "up", None),
        ({"ALL_PROXY": "http://a"}, "a", "a"),
        ({"all_proxy": "http://a", "HTTPS_PROXY": "http://s"}, "s", "a"),
        ({"HTTPS_PROXY": "  "}, None, None),
    ],
)
def test_the_variables(environ: dict[str, str], https: str | None, http: str | None) -> None:
    assert towards(environ) == https
    assert towards(environ, "http", port=80) == http


def test_each_proxy_is_named_once_and_can_be_forgotten() -> None:
    proxies = ParentProxies({"http_proxy": PROXY, "https_proxy": PROXY})
    (proxy,) = proxies
    proxies.forget(proxy)
    assert list(proxies) == []
    assert proxies.towards("https", "registry.test", 443) is None


# -- NO_PROXY


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        ("registry.test", "registry.test"),
        ("registry.test", "eu.registry.test"),
        (".registry.test", "eu.registry.test"),
        (".registry.test", "registry.test"),
        ("*.registry.test", "eu.registry.test"),
        ("REGISTRY.test", "registry.TEST"),
        ("registry.test", "registry.test."),
        ("other.test, registry.test", "registry.test"),
        ("other.test registry.test", "registry.test"),
        (",,registry.test,", "registry.test"),
        ("registry.test:443", "registry.test"),
        ("*", "registry.test"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3/8", "10.9.9.9"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("fd00::/8", "fd00::1"),
        ("[fd00::1]", "fd00::1"),
        ("[fd00::1]:443", "[fd00::1]"),
        ("fd00::1", "fd00:0::1"),
        ("", "localhost"),
        ("", "127.0.0.1"),
        ("", "127.9.9.9"),
        ("", "::1"),
    ],
)
def test_who_is_asked_directly(exempt: str, host: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert towards({"https_proxy": PROXY, name: exempt}, host=host) is None


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        ("", "registry.test"),
        ("registry.test", "myregistry.test"),
        ("registry.test", "registry.test.evil.test"),
        ("eu.registry.test", "registry.test"),
        ("registry.test:5000", "registry.test"),
        ("10.0.0.0/8", "11.0.0.1"),
        ("10.0.0.0/8", "registry.test"),
        ("10.0.0.0/8", "10.test"),
        ("10.1.2.3:80", "10.1.2.3"),
        ("10.0.0.0/33", "10.0.0.1"),
        (".", "registry.test"),
        ("*.", "registry.test"),
        (":443", "registry.test"),
        ("fd00::/8", "10.0.0.1"),
        ("test.", "10.0.0.1"),
    ],
)
def test_who_is_asked_through_the_parent(exempt: str, host: str) -> None:
    assert towards({"https_proxy": PROXY, "no_proxy": exempt}, host=host) == "proxy.test"


@given(st.text(), st.text(), st.integers(0, 65535))
def test_no_value_is_a_surprise(exempt: str, host: str, port: int) -> None:
    ParentProxies({"https_proxy": PROXY, "no_proxy": exempt}).towards("https", host, port)
