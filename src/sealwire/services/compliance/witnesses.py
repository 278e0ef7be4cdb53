"""Witnesses: others who saw a checkpoint and say so (C2SP tlog-cosignature), so that the log's key alone can't lie.

A witness cosigns a tree head after it was proved that it continues the last one it saw. Who has stolen the log's key
can still sign another history; they can't have it cosigned.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealwire.contracts.witness import CheckpointUnknown, CosignedCheckpoint, NotCosigned
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.notes import (
    COSIGNATURE_V1,
    NoteInvalid,
    NoteSignature,
    VerifierKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_signature,
    write_note,
)
from sealwire.services.compliance.ports import AuditStore, StoredCheckpoint
from sealwire.services.compliance.witness_ports import CosignatureStore, StoredCosignature

MOST_AHEAD_S = 300
"""How far a witness's clock may be ahead of ours: a time that is far off would stand for ever as the latest."""
_TIME_BYTES = 8


class Witnesses:
    """Takes cosignatures in and gives cosigned checkpoints."""

    def __init__(self, *, store: AuditStore, cosignatures: CosignatureStore, clock: Clock, keys: Sequence[str]) -> None:
        """`keys` are the key lines of the witnesses that count. Raises: ValueError for one that is none."""
        self._store = store
        self._cosignatures = cosignatures
        self._clock = clock
        self._keys = {(key.name, key.key_id): key for key in witness_keys(keys)}

    async def take(self, tenant_id: str, note: str) -> CosignedCheckpoint:
        """Keep the cosignatures that stand under a checkpoint of this log. Raises: Invalid, CheckpointUnknown."""
        try:
            parsed = parse_note(note)
            head = parse_checkpoint(parsed.text)
            stored = await self._signed(tenant_id, head.size)
            if stored is None or parse_note(stored.note).text != parsed.text:
                raise CheckpointUnknown("The note's text is not that of a checkpoint this log signed.")
            found = [self._judged(head.size, parsed.text, s) for s in parsed.signatures if self._key(s) is not None]
        except NoteInvalid as error:
            raise Invalid(f"The cosigned checkpoint can't be taken: {error}.", path="$.note") from None
        if not found:
            raise Invalid("No witness of `compliance.witnesses` signed it.", path="$.note")
        await self._cosignatures.add(tenant_id, found)
        return await self._cosigned(tenant_id, stored)

    async def newest(self, tenant_id: str) -> CosignedCheckpoint:
        """Return the largest checkpoint that a witness cosigned. Raises: NotCosigned."""
        size = await self._cosignatures.last_size(tenant_id)
        stored = await self._signed(tenant_id, size) if size is not None else None
        if stored is None:
            raise NotCosigned("No witness cosigned a checkpoint of this log yet.")
        return await self._cosigned(tenant_id, stored)

    async def newest_note(self, tenant_id: str) -> str:
        """Return its note, empty without one."""
        try:
            return (await self.newest(tenant_id)).checkpoint
        except NotCosigned:
            return ""

    async def under(self, tenant_id: str, checkpoint: StoredCheckpoint) -> str:
        """Return a checkpoint's note with the lines of its witnesses."""
        return _with_lines(checkpoint.note, await self._cosignatures.under(tenant_id, checkpoint.size))

    async def _cosigned(self, tenant_id: str, checkpoint: StoredCheckpoint) -> CosignedCheckpoint:
        found = await self._cosignatures.under(tenant_id, checkpoint.size)
        return CosignedCheckpoint(
            checkpoint=_with_lines(checkpoint.note, found),
            tree_size=checkpoint.size,
            root=checkpoint.root.hex(),
            witnesses={c.name: c.at_s for c in found},
        )

    async def _signed(self, tenant_id: str, size: int) -> StoredCheckpoint | None:
        found = await self._store.checkpoints(tenant_id, above=size - 1, limit=1)
        return found[0] if found and found[0].size == size else None

    def _key(self, signature: NoteSignature) -> VerifierKey | None:
        return self._keys.get((signature.name, signature.key_id))

    def _judged(self, size: int, text: str, signature: NoteSignature) -> StoredCosignature:
        key = self._key(signature)
        assert key is not None  # asked for before
        verify_signature(text, signature, key)
        at_s = int.from_bytes(signature.signature[:_TIME_BYTES], "big")
        if at_s > self._clock.now_us() // US_PER_S + MOST_AHEAD_S:
            raise NoteInvalid(f"{key.name} cosigned it in the future")
        return StoredCosignature(size=size, name=key.name, key_id=key.key_id, at_s=at_s, signature=signature.signature)


def _with_lines(note: str, found: Sequence[StoredCosignature]) -> str:
    parsed = parse_note(note)
    return write_note(parsed.text, [*parsed.signatures, *(NoteSignature(c.name, c.key_id, c.signature) for c in found)])


def witness_keys(lines: Sequence[str]) -> list[VerifierKey]:
    """Read the key lines of witnesses. Raises: NoteInvalid for one that is none, or a key under two names: what a
    witness signs does not hold its name, so one could speak for the other."""
    keys: list[VerifierKey] = []
    for line in lines:
        try:
            key = parse_key(line)
        except NoteInvalid as error:
            raise NoteInvalid(f"compliance.witnesses: {line[:80]!r}: {error}") from None
        if key.type != COSIGNATURE_V1:
            raise NoteInvalid(f"compliance.witnesses: {key.name} is no witness's key (signature type 4)")
        if any(key.public_key == known.public_key for known in keys):
            raise NoteInvalid(f"compliance.witnesses: the key of {key.name} is there twice")
        keys.append(key)
    return keys
