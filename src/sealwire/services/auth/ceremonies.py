"""Ceremonies of WebAuthn: checks what an authenticator answered (Web Authentication Level 3, sections 7.1 and 7.2).

The library does the cryptography; it is loaded on first use, because many installations never need it. What it leaves
to the caller is done here: cross-origin use, an unchanged backup eligibility, and the counter, which is looked at only
once the signature holds, so that nobody without the key can have a passkey suspended.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
import sys
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from sealwire.contracts.webauthn import Assertion, Parameters, RegistrationResponse
from sealwire.services.auth.relying_party import Party

if TYPE_CHECKING:
    from webauthn.helpers.structs import AuthenticationCredential, RegistrationCredential

ALGORITHMS: Final = (-8, -7, -257)
"""COSE numbers of EdDSA, ES256 and RS256, the best first; an authenticator takes the first it can do."""
ACCEPTED: Final = [Parameters(alg=alg) for alg in ALGORITHMS]
MAX_KEY_BYTES: Final = 1_100
"""A public key of RSA with 8,192 bits; a longer one costs more to check than a login should."""
_FORMATS: Final = frozenset({"none", "packed"})
"""We ask for no attestation. A browser then passes on nothing, or `packed` where the key attests itself."""


class Refused(Exception):
    """The answer does not hold. The text is for the log's facts: it names the rule, never what was sent."""


class ClientData(msgspec.Struct, frozen=True, rename="camel"):
    """What the browser says it was asked, by which page (section 5.8.1)."""

    type: str
    challenge: str
    origin: str
    cross_origin: bool = False
    top_origin: str | None = None


class NewKey(msgspec.Struct, frozen=True):
    """What a registration gives."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    backup_eligible: bool


class Proof(msgspec.Struct, frozen=True):
    """What an assertion shows."""

    sign_count: int
    backup_eligible: bool


_client_data: Final = msgspec.json.Decoder(ClientData)


def encoded(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decoded(text: str) -> bytes:
    """Read base64url without padding, in its one form. Raises: Refused."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise Refused("encoding") from None
    if encoded(data) != text:
        raise Refused("encoding")
    return data


def challenge_in(client_data_json: str, kind: Literal["webauthn.create", "webauthn.get"]) -> bytes:
    """Return the challenge that was answered, on a page of ours or not. Raises: Refused."""
    try:
        told = _client_data.decode(decoded(client_data_json))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("client data") from None
    if told.type != kind:
        raise Refused("type")
    if told.cross_origin or told.top_origin is not None:
        raise Refused("cross-origin")
    return decoded(told.challenge)


async def load_library() -> None:
    """Load it in a thread: it takes a third of a second that the event loop has not."""
    if not hasattr(sys.modules.get("webauthn"), "__all__"):  # its last statement: there from when it is loaded whole
        await asyncio.to_thread(importlib.import_module, "webauthn")


async def check_registration(party: Party, response: RegistrationResponse, challenge: bytes) -> NewKey:
    """Check a new credential. Raises: Refused."""
    await load_library()
    from webauthn import verify_registration_response
    from webauthn.helpers import parse_attestation_object
    from webauthn.helpers.cose import COSEAlgorithmIdentifier

    credential = _registration(response)
    try:
        form = parse_attestation_object(credential.response.attestation_object).fmt
        if form not in _FORMATS:
            raise Refused("attestation")
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.rp_id,
            expected_origin=list(party.origins),
            require_user_verification=True,
            supported_pub_key_algs=[COSEAlgorithmIdentifier(alg) for alg in ALGORITHMS],
        )
    except Refused:
        raise
    except Exception as error:  # whatever it stumbles over in bytes from outside is a refusal
        raise Refused(type(error).__name__) from error
    if verified.credential_id != credential.raw_id:
        raise Refused("credential id")
    if len(verified.credential_public_key) > MAX_KEY_BYTES:
        raise Refused("key length")
    eligible = verified.credential_device_type.value == "multi_device"
    return NewKey(verified.credential_id, verified.credential_public_key, verified.sign_count, eligible)


async def check_assertion(party: Party, assertion: Assertion, challenge: bytes, public_key: bytes) -> Proof:
    """Check a proof; its counter is told and not judged. Raises: Refused."""
    await load_library()
    from webauthn import verify_authentication_response

    credential = _authentication(assertion)
    try:
        verified = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.rp_id,
            expected_origin=list(party.origins),
            credential_public_key=public_key,
            credential_current_sign_count=0,  # not judged there: it looks at the counter before the signature
            require_user_verification=True,
        )
    except Exception as error:  # whatever it stumbles over in bytes from outside is a refusal
        raise Refused(type(error).__name__) from error
    return Proof(verified.new_sign_count, verified.credential_device_type.value == "multi_device")


def _registration(response: RegistrationResponse) -> RegistrationCredential:
    from webauthn.helpers.structs import AuthenticatorAttestationResponse, RegistrationCredential

    return RegistrationCredential(
        id=response.id,
        raw_id=decoded(response.raw_id),
        response=AuthenticatorAttestationResponse(
            client_data_json=decoded(response.response.client_data_json),
            attestation_object=decoded(response.response.attestation_object),
        ),
    )


def _authentication(assertion: Assertion) -> AuthenticationCredential:
    from webauthn.helpers.structs import AuthenticationCredential, AuthenticatorAssertionResponse

    return AuthenticationCredential(
        id=assertion.id,
        raw_id=decoded(assertion.raw_id),
        response=AuthenticatorAssertionResponse(
            client_data_json=decoded(assertion.response.client_data_json),
            authenticator_data=decoded(assertion.response.authenticator_data),
            signature=decoded(assertion.response.signature),
        ),
    )
