"""What crypto promises: keys of a tenant and what is done with them. Key material never leaves, data keys excepted.

Each noun has a contract of its own.
"""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts import ciphers, custody, data_keys, keys, signatures
from sealwire.contracts.crypto_terms import SERVICE
from sealwire.kit.operation import table

OPERATIONS = table(
    *keys.OPERATIONS.values(),
    *ciphers.OPERATIONS.values(),
    *data_keys.OPERATIONS.values(),
    *signatures.OPERATIONS.values(),
    *custody.operations(SERVICE, custody.SUBJECT, custody.HOLDS),
)


class Crypto(
    keys.KeyDesk,
    ciphers.CipherDesk,
    data_keys.DataKeyDesk,
    signatures.SignatureDesk,
    custody.SubjectCustody,
    custody.HoldCustody,
    Protocol,
):
    """Crypto, in this process or another. Calls with a key id may raise `KeyNotFound` and `KeyUnusable`."""
