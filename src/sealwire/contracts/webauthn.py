"""WebAuthn's JSON: what `PublicKeyCredential.toJSON()` gives and `parse…OptionsFromJSON()` takes.

Source: W3C Web Authentication Level 3, sections 5.1.8 to 5.1.10. Byte strings are base64url without padding.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

from sealwire.kit.codec import FrozenMeta, Output, RuleBroken, form

_IN_BASE64: Final = "Send it as base64url without padding, as the browser gives it."
_BASE64: Final = form(r"^[A-Za-z0-9_-]+$", _IN_BASE64)
_BASE64_OR_NOTHING: Final = form(r"^[A-Za-z0-9_-]*$", _IN_BASE64)
_TRANSPORT: Final = form(r"^[a-z-]+$", "A transport is a word such as `usb` or `internal`.")
Base64Url = Annotated[str, msgspec.Meta(min_length=1, max_length=32_768, pattern=_BASE64)]
CredentialId = Annotated[str, msgspec.Meta(min_length=1, max_length=1_364, pattern=_BASE64)]
"""At most 1,023 bytes (section 4, "Credential ID")."""
Transport = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=_TRANSPORT)]
Kind = Literal["public-key"]


class Foreign(msgspec.Struct, metaclass=FrozenMeta, rename="camel"):
    """A document of that standard: members we don't know are passed over, as it asks, and not refused."""


# ---- what browsers send
class Attestation(Foreign):
    """The answer to `navigator.credentials.create()`."""

    client_data_json: Base64Url = msgspec.field(name="clientDataJSON")
    attestation_object: Base64Url
    transports: Annotated[list[Transport], msgspec.Meta(max_length=16)] = []


class RegistrationResponse(Foreign):
    """A new credential."""

    id: CredentialId
    raw_id: CredentialId
    type: Kind
    response: Attestation


class AssertionData(Foreign):
    """The answer to `navigator.credentials.get()`."""

    client_data_json: Base64Url = msgspec.field(name="clientDataJSON")
    authenticator_data: Base64Url
    signature: Base64Url
    user_handle: Annotated[str, msgspec.Meta(max_length=128, pattern=_BASE64_OR_NOTHING)] | None = None


class Assertion(Foreign):
    """A proof that a credential is at hand."""

    id: CredentialId
    raw_id: CredentialId
    type: Kind
    response: AssertionData


# ---- what browsers are asked
class RelyingParty(Output, rename="camel"):
    """For whom a credential is made."""

    id: str
    name: str


class Account(Output, rename="camel"):
    """Whose credential it is: `id` is opaque; the names are shown by the authenticator and nowhere else."""

    id: str
    name: str
    display_name: str


class Parameters(Output, rename="camel"):
    """A kind of key that is accepted (COSE algorithm number)."""

    alg: int
    type: Kind = "public-key"


class Descriptor(Output, rename="camel"):
    """A credential that is known."""

    id: str
    transports: list[str] = []
    type: Kind = "public-key"


class Selection(Output, rename="camel"):
    """Which authenticators do: they keep the credential themselves, and verify the person."""

    resident_key: Literal["required"] = "required"
    require_resident_key: bool = True
    user_verification: Literal["required"] = "required"


class CreationOptions(Output, rename="camel"):
    """For `PublicKeyCredential.parseCreationOptionsFromJSON()`. `timeout` in milliseconds."""

    rp: RelyingParty
    user: Account
    challenge: str
    pub_key_cred_params: list[Parameters]
    timeout: int
    exclude_credentials: list[Descriptor]
    authenticator_selection: Selection = Selection()
    attestation: Literal["none"] = "none"


class RequestOptions(Output, rename="camel"):
    """For `PublicKeyCredential.parseRequestOptionsFromJSON()`. `timeout` in milliseconds."""

    challenge: str
    timeout: int
    rp_id: str
    allow_credentials: list[Descriptor] = []
    user_verification: Literal["required"] = "required"


# ---- beside other proofs
Proof = Annotated[str, msgspec.Meta(min_length=6, max_length=65_536)]
"""A code: six and more letters and digits, spaces and hyphens aside. Of a passkey its assertion, as JSON in a text."""
_CODE = re.compile(r" *(?:[A-Za-z0-9][ -]*){6,32}")
_MOST_CODE = 64


def check_proof(method: str, code: str | Assertion) -> None:
    """Raises: RuleBroken when the code can't be one of that method."""
    if method != "passkey" and not (isinstance(code, str) and len(code) <= _MOST_CODE and _CODE.fullmatch(code)):
        raise RuleBroken("A code is 6 to 32 letters and digits, spaces and hyphens aside.", "code")
