"""The ways to a server: proxies, authorities of one's own, client certificates, IPv6."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from support.fault_server import Answer, FaultServer, refused_url
from support.proxy import Proxy
from support.served import chunks_of, text_of

from duet_sdk import AsyncDuetClient, Endpoint
from duet_sdk.backends.server.backend import VllmBackend, connect
from duet_sdk.backends.server.route import route_to
from duet_sdk.environment import proxy_for
from duet_sdk.errors import BackendError, ConfigError, ConnectFailed
from duet_sdk.settings import load_settings


@asynccontextmanager
async def backend_at(url, **options):
    backend = VllmBackend("m", base_url=url, **options)
    try:
        yield backend
    finally:
        await backend.aclose()


class Authority:
    """An authority that nobody knows, its files, and what it has signed."""

    def __init__(self, folder):
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *, wants_client=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert("127.0.0.1", "::1", "localhost").configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client(self):
        """Its certificate's file and its key's."""
        issued = self._ca.issue_cert("client@example.org")
        cert, key = self._folder / "client.pem", self._folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return cert, key


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


# Certificates.


async def test_an_authority_of_ones_own_is_trusted_for_the_endpoint_that_names_it(authority):
    async with FaultServer(tls=authority.server()) as server:
        async with backend_at(server.url, ca_file=str(authority.file)) as backend:
            assert text_of(await chunks_of(backend)) == "one two three"
        async with backend_at(server.url) as backend:
            with pytest.raises(ConnectFailed, match="option ca_file"):
                await backend.connect()


async def test_the_endpoints_of_one_client_keep_their_authorities_apart(authority, tmp_path):
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with FaultServer(Answer("17."), tls=authority.server()) as server:
        known = Endpoint(model="vllm/m", base_url=server.url, options={"ca_file": str(authority.file)})
        unknown = Endpoint(model="vllm/m", base_url=server.url, options={"ca_file": str(other.file)})
        async with AsyncDuetClient(known, unknown, retry=None) as duet:
            assert (await duet.chat("q", mode="reasoner")).text == "17."
            with pytest.raises(ConnectFailed, match="certificate was rejected"):
                await duet.chat("q", mode="generator")


async def test_a_server_that_wants_a_certificate_gets_the_clients(authority):
    cert, key = authority.client()
    both = cert.parent / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    async with FaultServer(tls=authority.server(wants_client=True)) as server:
        for files in ({"cert_file": str(cert), "key_file": str(key)}, {"cert_file": str(both)}):
            async with backend_at(server.url, ca_file=str(authority.file), **files) as backend:
                assert text_of(await chunks_of(backend)) == "one two three"
        async with backend_at(server.url, ca_file=str(authority.file)) as backend:
            with pytest.raises(ConnectFailed):
                await backend.connect()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ca_file": "gone.pem"}, "option 'ca_file': .*gone.pem cannot be used .*No such file.*authorities in PEM"),
        ({"ca_file": "text.pem"}, "option 'ca_file': .*text.pem cannot be used"),
        ({"cert_file": "gone.pem"}, "option 'cert_file': .*gone.pem cannot be used .*No such file"),
        ({"cert_file": "text.pem"}, "option 'cert_file': .*cannot be used .*a certificate in PEM form with its key"),
        ({"key_file": "text.pem"}, "option 'key_file' is the key of a certificate"),
        ({"ca_file": 3}, "option 'ca_file' must be of type str"),
        ({"cert_file": "client.pem", "key_file": "locked.key"}, "option 'cert_file': .*not encrypted"),
        ({"cert_file": "client.pem", "key_file": "other.key"}, "option 'cert_file': .*cannot be used"),
        ({"proxy": "socks5://127.0.0.1:1080"}, "SOCKS is not supported"),
        ({"proxy": "http://u:secret@127.0.0.1:1"}, "must not hold a user or a password"),
        ({"proxy": "http://"}, "option 'proxy' must be a URL"),
        ({"proxy": "http://a:99999"}, "option 'proxy' must be a URL"),
    ],
)
def test_what_cannot_work_is_refused_when_the_client_is_made(options, words, authority, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives import serialization as to

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    _, key = authority.client()
    private = to.load_pem_private_key(key.read_bytes(), None)
    forms = (to.Encoding.PEM, to.PrivateFormat.PKCS8, to.BestAvailableEncryption(b"password"))
    (tmp_path / "locked.key").write_bytes(private.private_bytes(*forms))
    trustme.CA().issue_cert("b@example.org").private_key_pem.write_to_path(tmp_path / "other.key")
    with pytest.raises(ConfigError, match=words) as failed:
        connect("m", {"base_url": "https://127.0.0.1/v1", **options})
    assert "secret" not in str(failed.value)


def test_a_home_folder_is_found(authority, monkeypatch):
    monkeypatch.setenv("HOME", str(authority.file.parent))
    assert route_to("https://a/v1", ca_file="~/authority.pem").tls is not None


# Proxies.


@pytest.mark.parametrize("tls", [False, True])
async def test_a_proxy_stands_between(tls, authority):
    async with Proxy() as proxy, FaultServer(tls=authority.server() if tls else None) as server:
        options = {"ca_file": str(authority.file)} if tls else {}
        async with backend_at(server.url, proxy=proxy.url, **options) as backend:
            assert text_of(await chunks_of(backend)) == "one two three"
        assert proxy.seen[0].startswith(f"CONNECT 127.0.0.1:{server.port}" if tls else f"GET {server.url}/models")
        assert all(b"primes" not in head for head in proxy.heads)
        asked = len(proxy.seen)
        async with backend_at(server.url, **options) as backend:
            await chunks_of(backend)
        assert len(proxy.seen) == asked


async def test_the_endpoints_of_one_client_keep_their_proxies_apart():
    async with Proxy() as proxy, FaultServer(Answer("17."), models=("r", "g")) as server:
        reasoner = Endpoint(model="vllm/r", base_url=server.url, options={"proxy": proxy.place})
        generator = Endpoint(model="vllm/g", base_url=server.url)
        async with AsyncDuetClient(reasoner, generator) as duet:
            await duet.chat("q", mode="generator")
            assert proxy.seen == []
            assert (await duet.chat("q")).served_by == "pair"
            assert proxy.seen


@pytest.mark.parametrize("tls", [False, True])
async def test_a_proxy_of_the_environment_gets_its_password_and_nobody_else_does(tls, authority, monkeypatch):
    async with Proxy(user="ann:se cret") as proxy, FaultServer(tls=authority.server() if tls else None) as server:
        monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", f"http://ann:se%20cret@{proxy.place}")
        options = {"ca_file": str(authority.file)} if tls else {}
        async with backend_at(server.url, trust_env=True, **options) as backend:
            assert text_of(await chunks_of(backend)) == "one two three"
            assert "cret" not in repr(backend)
        assert "Proxy-Authorization" not in server.seen[-1].headers or not tls
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        asked = len(proxy.seen)
        async with backend_at(server.url, trust_env=True, **options) as backend:
            await backend.connect()
        async with backend_at(server.url, **options) as backend:
            await backend.connect()
        assert len(proxy.seen) == asked


@pytest.mark.parametrize("tls", [False, True])
async def test_a_proxy_that_wants_another_password_is_said_to(tls, authority, monkeypatch):
    async with Proxy(user="ann:right") as proxy, FaultServer(tls=authority.server() if tls else None) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://ann:very-wrong@{proxy.place}")
        options = {"ca_file": str(authority.file)} if tls else {}
        async with backend_at(server.url, trust_env=True, **options) as backend:
            with pytest.raises(BackendError, match="407") as failed:
                await backend.connect()
    assert not failed.value.retryable
    assert "very-wrong" not in f"{failed.value}{failed.value.__cause__!r}"


async def test_a_proxy_that_is_not_there_is_said_to_be_the_proxy():
    gone = refused_url().removesuffix("/v1")
    async with FaultServer() as server, backend_at(server.url, proxy=gone) as backend:
        with pytest.raises(ConnectFailed, match="proxy") as failed:
            await backend.connect()
        assert failed.value.retryable
        assert server.seen == []


async def test_what_netrc_holds_is_not_sent(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for key in (None, "sk-key"):
        async with FaultServer(key=key) as server, backend_at(server.url, trust_env=True, api_key=key) as backend:
            await chunks_of(backend)
            assert server.seen[-1].headers.get("Authorization") == (None if key is None else f"Bearer {key}")


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example/v1", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "http://a.example/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.example/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:1"}, "https://a.example/v1", "http://p:1"),
        ({"ALL_PROXY": "http://q:1"}, "https://a.example/v1", "http://q:1"),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "*"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "b.example, a.example"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": ".example"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "*.example"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "ample"}, "https://a.example/v1", "http://q:1"),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "A.EXAMPLE"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "a.example:8443"}, "https://a.example/v1", "http://q:1"),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "a.example:443"}, "https://a.example/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8000/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3:8000/v1", "http://q:1"),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "::1"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "[::1]:8000"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "[::1]:9000"}, "http://[::1]:8000/v1", "http://q:1"),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": "fd00::/8"}, "http://[fd12::1]/v1", None),
        ({"ALL_PROXY": "http://q:1", "NO_PROXY": " ,"}, "http://a/v1", "http://q:1"),
        ({}, "http://a/v1", None),
    ],
)
def test_the_environments_proxy_is_found_as_other_programs_find_it(environment, url, expected, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == expected


# IPv6.


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("tls", [False, True])
async def test_an_ipv6_address_is_reached(tls, authority):
    async with FaultServer(Answer("17."), tls=authority.server() if tls else None, host="::1") as server:
        assert server.url.startswith(("http://[::1]:", "https://[::1]:"))
        options = {"ca_file": str(authority.file)} if tls else {}
        async with backend_at(server.url, **options) as backend:
            assert (backend.boundary, text_of(await chunks_of(backend))) == ("local", "17.")
        if not tls:
            async with AsyncDuetClient("scripted/17", f"vllm/m@{server.url}") as duet:
                assert (await duet.chat("q")).text == "17."


@pytest.mark.parametrize(
    ("url", "boundary"),
    [("http://[::1]:8000/v1", "local"), ("http://[fd00::7]/v1", "local"), ("http://[2606:4700::1111]:8000/v1", "any")],
)
def test_the_boundary_of_an_ipv6_address_is_known(url, boundary):
    assert VllmBackend("m", base_url=url).boundary == boundary


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://::1:8000/v1", "http://[::g]:8000/v1"])
def test_what_is_no_ipv6_address_is_refused(url):
    with pytest.raises(ConfigError, match="base_url must be an http or https URL"):
        VllmBackend("m", base_url=url)


def test_the_ways_stand_in_a_file_of_settings(tmp_path, authority):
    cert, key = authority.client()
    file = tmp_path / "own.toml"
    file.write_text(
        f"""
        generator = "scripted/ok"
        [reasoner]
        model = "vllm/m"
        base_url = "http://[::1]:8000/v1"
        [reasoner.options]
        proxy = "http://127.0.0.1:3128"
        ca_file = "{authority.file}"
        cert_file = "{cert}"
        key_file = "{key}"
        """
    )
    settings = load_settings(file)
    duet = AsyncDuetClient(settings=settings)
    assert duet.models["reasoner"] == "vllm/m"
