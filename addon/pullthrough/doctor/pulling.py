"""The check that pulls: one HEAD of a manifest through the cache, as an anonymous client makes it.

Responsible for the handshake, the token and what the answer means. Must not store or show a token.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

from pullthrough.core import challenges
from pullthrough.core.challenges import Challenge
from pullthrough.core.media import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from pullthrough.doctor import certificates
from pullthrough.doctor.asking import Reply, ask_through, reason, tunnel_refusal
from pullthrough.doctor.case import Case
from pullthrough.doctor.finding import Finding, failed, ok, skipped, warning
from pullthrough.doctor.target import Place

_ACCEPT: Final = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
# OpenSSL's X509_V_ERR_...: x509_vfy.h
_NOT_YET_VALID, _EXPIRED, _PERMITTED, _EXCLUDED = 9, 10, 47, 48
_NAME: Final = "pull"
#: Of http.client, before the status and the reason.
_NO_TUNNEL: Final = "Tunnel connection failed"
#: What the cache says of a registry's certificate, for itself and in OpenSSL's words.
_UNTRUSTED: Final = re.compile(r"the certificate of \S+ is not trusted|certificate verify failed", re.IGNORECASE)
_LET_IN: Final = "on the cache: change --allow and --deny of pullthrough run, or its file, and start it again"


def pulled(case: Case) -> Finding:
    """200 and 401 are good answers: they came from the registry, through the cache, with a certificate of its CA."""
    if not case.said.ca:
        return skipped(_NAME, "the cache did not give its CA")
    target, place = case.target, case.target.place
    path = f"/v2/{target.repository}/manifests/{target.reference}" if target.repository else "/v2/"
    method = "HEAD" if target.repository else "GET"
    try:
        tls = certificates.context(case.said.ca)
        reply = ask_through(case.cache, place, tls, method, path, {"Accept": _ACCEPT})
        if reply.status == 401 and target.repository and (token := _token(case, tls, reply)):
            fields = {"Accept": _ACCEPT, "Authorization": f"Bearer {token}"}
            reply = ask_through(case.cache, place, tls, method, path, fields)
    except ssl.SSLCertVerificationError as error:
        return failed(_NAME, f"{place}: {error.verify_message}", _remedy(case, error.verify_code))
    except ssl.SSLError as error:
        return failed(_NAME, f"{place}: {reason(error)}", "the log of the cache has the handshake's own words")
    except (OSError, http.client.HTTPException) as error:
        return _unasked(case, error)
    return _judged(case, f"{method} {place}{path}", reply)


def _unasked(case: Case, error: Exception) -> Finding:
    """No connection came about; where the cache refused it, its own words say why."""
    place = case.target.place
    said = tunnel_refusal(case.cache, place) if str(error).startswith(_NO_TUNNEL) else ""
    told = f"{place} cannot be asked through the cache: {said or reason(error)}"
    if f"--registry {case.target.name}" in said:
        remedy = f"on the cache: pullthrough run --registry {place}; or, if it is none, put {place.host} into NO_PROXY"
        return failed(_NAME, told, remedy)
    return failed(_NAME, told, _readyz(case))


def _judged(case: Case, asked: str, reply: Reply) -> Finding:
    told = f"{asked} gave {reply.status}"
    if word := reply.headers.get("Cache-Status"):
        told = f"{told} ({word})"
    match reply.status:
        case 401:
            return ok(_NAME, f"{told}: the registry wants a login, which is an answer")
        case 403 | 404:
            if reply.status == 403 and _by_the_cache(reply):
                return failed(_NAME, f"{told}: the cache itself refuses this", _LET_IN)
            return warning(_NAME, f"{told}: the registry answers, and has not this for anybody", "try --image REF")
        case 429:
            return warning(
                _NAME, f"{told}: the registry's rate limit is used up", "log in, or wait: what is cached is served"
            )
        case status if status < 400:
            return ok(_NAME, told)
    if _UNTRUSTED.search(told):
        remedy = "on the cache, if your own CA signed it: pullthrough run --upstream-ca FILE, in which that CA is"
        return failed(_NAME, told, remedy)
    return failed(_NAME, told, _readyz(case))


def _by_the_cache(reply: Reply) -> bool:
    """Did the cache answer without a question to the registry (RFC 9211)?"""
    words = ", ".join(reply.headers.all("Cache-Status"))
    return bool(words) and "fwd=" not in words and "; hit" not in words


def _readyz(case: Case) -> str:
    return f"see what is said on the cache: curl -sS {case.cache.url}/readyz"


def _remedy(case: Case, code: int) -> str:
    """What a certificate that is none of the cache's CA, or not valid, calls for."""
    place = case.target.place
    if code in (_NOT_YET_VALID, _EXPIRED):
        return "set the clock, here or on the cache: sudo timedatectl set-ntp true"
    if code in (_PERMITTED, _EXCLUDED):
        return f"the CA may not sign for it; on the cache: pullthrough ca init --permit {place.host}"
    return f"the cache does not open connections to it; have it do so with: pullthrough run --registry {place}"


def _token(case: Case, own: ssl.SSLContext, reply: Reply) -> str | None:
    """An anonymous token by the answer's challenge; None where there is none to be had."""
    offered = (
        challenge for field in reply.headers.all("WWW-Authenticate") for challenge in challenges.parse(field) or ()
    )
    bearer = next((challenge for challenge in offered if challenge.scheme.lower() == "bearer"), None)
    place = _realm(bearer) if bearer else None
    if bearer is None or place is None:
        return None
    # A token server of its own host is tunnelled: its certificate is a public one.
    tls = own if place == case.target.place else ssl.create_default_context()
    parts = urlsplit(bearer.get("realm") or "")
    scope = bearer.get("scope") or f"repository:{case.target.repository}:pull"
    query = urlencode({"service": bearer.get("service") or "", "scope": scope})
    answer = ask_through(case.cache, place, tls, "GET", f"{parts.path}?{query}")
    return _of_body(answer.body) if answer.status == 200 else None


def _realm(bearer: Challenge) -> Place | None:
    """Where tokens are; None for what no client should follow."""
    try:
        parts = urlsplit(bearer.get("realm") or "")
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        return None
    return Place(host, port) if parts.scheme == "https" and host and parts.path.isprintable() else None


def _of_body(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    token = answer.get("token") or answer.get("access_token") if isinstance(answer, Mapping) else None
    return token if isinstance(token, str) and token.isascii() and token.isprintable() else None
