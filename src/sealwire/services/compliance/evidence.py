"""Evidence: signed checkpoints, proofs and tiles of a tenant's log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import msgspec

from sealwire.contracts.audit_log import AuditRangeEmpty, Checkpoint, ConsistencyQuery, InclusionQuery, LogBroken, Proof
from sealwire.contracts.crypto import Crypto
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Invalid
from sealwire.services.compliance import merkle
from sealwire.services.compliance.key_chain import KeyChain
from sealwire.services.compliance.log_tree import Tree, grow_from
from sealwire.services.compliance.notes import (
    NoteInvalid,
    TreeHead,
    VerifierKey,
    checkpoint_text,
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_note,
    write_note,
)
from sealwire.services.compliance.ports import AuditStore, LogUnreadable, StoredCheckpoint
from sealwire.services.compliance.sequencer import Logs
from sealwire.services.compliance.signers import SERVICE, Signers
from sealwire.services.compliance.stored_tree import require_signed, tiles_under
from sealwire.services.compliance.tiles import (
    BundleAddress,
    TileAddress,
    TilePathInvalid,
    parse_path,
    split_hashes,
    width_in,
    write_bundle,
)
from sealwire.services.compliance.witnesses import Witnesses

_log = logging.getLogger("sealwire.compliance")


class Evidence:
    """Makes checkpoints, and proofs against them."""

    def __init__(
        self, *, store: AuditStore, logs: Logs, crypto: Crypto, clock: Clock, origin: str, witnesses: Witnesses
    ) -> None:
        self._store = store
        self._logs = logs
        self._clock = clock
        self._origin = origin
        self._witnesses = witnesses
        self._signers = Signers(store=store, crypto=crypto, clock=clock, origin=self.origin)
        self._locks: dict[str, asyncio.Lock] = {}
        self._checked: dict[str, int] = {}
        self._keys: dict[str, VerifierKey] = {}
        self._grown: set[str] = set()

    async def start(self) -> None:
        """Look at every log once, whatever happened before the start."""
        self._grown.update(await self._store.tenants())

    def grown(self, tenants: Iterable[str]) -> None:
        """Have these logs looked at by the next `sign_grown`."""
        self._grown.update(tenants)

    def origin(self, tenant_id: str) -> str:
        """Return the name of a tenant's log in checkpoints, which is its key's name too."""
        return f"{self._origin}/{tenant_id}"

    async def checkpoint(self, tenant_id: str) -> StoredCheckpoint:
        """Return a signed checkpoint over the whole log as it is now; signed anew if the log grew since the last.

        Raises: LogBroken when the log contradicts what was signed before: that is never signed.
        """
        lock = self._locks.setdefault(tenant_id, asyncio.Lock())
        async with lock:
            tree = await self._logs.of(tenant_id).tree()
            last = await self._store.last_checkpoint(tenant_id)
            if last is not None and last.size == tree.head.size:
                return last
            if last is not None:
                await self._check_grown(tenant_id, tree, last)
            try:
                return await self._sign(tenant_id, tree)
            except LogUnreadable as error:
                raise LogBroken("The audit log can't be read; run its verification.") from error

    async def _sign(self, tenant_id: str, tree: Tree) -> StoredCheckpoint:
        root = tree.frontier.root()
        text = checkpoint_text(TreeHead(origin=self.origin(tenant_id), size=tree.head.size, root=root))
        key, note = await self._sign_text(tenant_id, text)
        checkpoint = StoredCheckpoint(
            size=tree.head.size, root=root, note=note, public_key=key.text, at_us=self._clock.now_us()
        )
        await self._store.add_checkpoint(tenant_id, checkpoint)
        self._checked[tenant_id] = tree.head.size
        return checkpoint

    async def _sign_text(self, tenant_id: str, text: str) -> tuple[VerifierKey, str]:
        key, signature = await self._signers.sign(tenant_id, text)
        note = write_note(text, [signature])
        verify_note(note, [key])
        self._keys[tenant_id] = key
        return key, note

    async def key(self, tenant_id: str) -> VerifierKey:
        """Return the key that crypto signs the tenant's checkpoints with; not what is stored beside them."""
        if (key := self._keys.get(tenant_id)) is None:
            # There is no other way to ask; the head of an empty log is a statement that harms nobody.
            empty = TreeHead(origin=self.origin(tenant_id), size=0, root=merkle.EMPTY_ROOT)
            key, _ = await self._sign_text(tenant_id, checkpoint_text(empty))
        return key

    async def rotate_key(self, tenant_id: str) -> VerifierKey:
        """Have checkpoints signed by a new key from now on, for which the one before vouches. Return it."""
        await self._signers.rotate(tenant_id)
        self._keys.pop(tenant_id, None)
        return await self.key(tenant_id)

    async def succession(self, tenant_id: str) -> tuple[VerifierKey, list[str]]:
        """Return the first key of the tenant's log and the rotations that lead to the one that signs now."""
        current = await self.key(tenant_id)
        stored = await self._store.checkpoint_keys(tenant_id)
        first = parse_key(stored[0].public_key) if stored else current
        return first, [key.rotation for key in stored if key.rotation]

    async def chain(self, tenant_id: str) -> KeyChain:
        """Return the keys that count for the tenant's log.

        Raises: NoteInvalid when what is stored of them does not lead to the key that crypto signs with.
        """
        first, rotations = await self.succession(tenant_id)
        chain = KeyChain.of([first], rotations)
        if chain.keys[-1] != await self.key(tenant_id):
            raise NoteInvalid("the keys of the checkpoints don't lead to the key that signs now")
        return chain

    async def answer(self, tenant_id: str) -> Checkpoint:
        """Return the checkpoint over the log as it is now, as the contract gives it, with its keys."""
        return await self._told(tenant_id, await self.checkpoint(tenant_id))

    async def answer_for(self, tenant_id: str, first: int, last: int | None) -> tuple[Checkpoint, Tree | None]:
        """Return the checkpoint to give out records `first` to `last` under, as `answer`.

        Of a log that is damaged, and so is signed no more, the newest of at most `last` records that there is, with the
        tree of its time if what is stored still leads to it. Raises: LogBroken when there is none, or no `last`.
        """
        try:
            return await self.answer(tenant_id), None
        except LogBroken:
            found = None if last is None else await self._store.last_checkpoint(tenant_id, last)
            if found is None or found.size < first:
                if last is None:
                    raise
                what = f"no checkpoint of {first} to {last} records was made"
                raise LogBroken(f"The audit log is damaged, and {what}; run its verification.") from None
        told = await self._told(tenant_id, found)
        if size_of(told.cosigned) > found.size:
            told = msgspec.structs.replace(told, cosigned="")
        return told, await self._tree_at(tenant_id, found)

    async def _tree_at(self, tenant_id: str, checkpoint: StoredCheckpoint) -> Tree | None:
        """Return the tree of a checkpoint out of what is stored; None when that leads to another."""
        with suppress(LogBroken, LogUnreadable):
            tree = grow_from(await self._store.edge(tenant_id, checkpoint.size))
            if tree.frontier.root() == checkpoint.root:
                return tree
        return None

    async def _told(self, tenant_id: str, checkpoint: StoredCheckpoint) -> Checkpoint:
        first, rotations = await self.succession(tenant_id)
        return Checkpoint(
            checkpoint=await self._witnesses.under(tenant_id, checkpoint),
            tree_size=checkpoint.size,
            root=checkpoint.root.hex(),
            public_key=checkpoint.public_key,
            first_key=first.text,
            rotations=rotations,
            cosigned=await self._witnesses.newest_note(tenant_id),
        )

    async def _check_grown(self, tenant_id: str, tree: Tree, last: StoredCheckpoint) -> None:
        """Make sure that the tree continues the last checkpoint, once for each log in memory: it only grows there."""
        if self._checked.get(tenant_id, -1) >= last.size:
            return
        await require_signed(self._store, tenant_id, tree, last)
        self._checked[tenant_id] = last.size

    async def sign_grown(self) -> None:
        """Make a checkpoint of every log that grew by more than the records of our own signing."""
        grown, self._grown = self._grown, set()
        for tenant_id in sorted(grown):
            try:
                last = await self._store.last_checkpoint(tenant_id)
                if await self._grew(tenant_id, last.size if last else 0):
                    await self.checkpoint(tenant_id)
            except Exception as error:
                self._grown.add(tenant_id)
                _log.error("no checkpoint of the log of %s: %r", tenant_id, error)

    async def _grew(self, tenant_id: str, size: int) -> bool:
        """Whether records came that don't only tell of our own keys: else each checkpoint would cause the next."""
        head = await self._store.head(tenant_id)
        if head.size == size or head.size - size > 16:
            return head.size != size
        own = f'"actor":{{"id":"{SERVICE}","type":"service"}}'.encode()
        return any(own not in r.body for r in await self._store.records(tenant_id, size + 1, head.size - size))

    # ---- proofs

    async def inclusion(self, tenant_id: str, query: InclusionQuery) -> Proof:
        """Prove that record `seq` is in the tree of `tree_size` records (the newest checkpoint's without it)."""
        size = query.tree_size or (await self.checkpoint(tenant_id)).size
        tree = await self._logs.of(tenant_id).tree()
        if size > tree.head.size or query.seq > size:
            raise AuditRangeEmpty("There is no such record in a tree of that size.")
        index = query.seq - 1
        tiles = await tiles_under(self._store, tenant_id, tree, merkle.inclusion_ranges(index, size))
        return _proof(index, size, merkle.inclusion_proof(index, size, tiles))

    async def prover(
        self, tenant_id: str, seqs: Sequence[int], size: int, tree: Tree | None = None
    ) -> Callable[[int], list[str]]:
        """Return what proves any of these records to be in the tree of `size` records; tiles are read once for all.

        For records near one another: their tiles are held meanwhile. `tree`: the log's, or that of `answer_for`.
        """
        tree = tree or await self._logs.of(tenant_id).tree()
        ranges = {part for seq in seqs for part in merkle.inclusion_ranges(seq - 1, size)}
        tiles = await tiles_under(self._store, tenant_id, tree, list(ranges))
        return lambda seq: [h.hex() for h in merkle.inclusion_proof(seq - 1, size, tiles)]

    async def consistency(self, tenant_id: str, query: ConsistencyQuery, tree: Tree | None = None) -> Proof:
        """Prove that the tree of `to` records continues that of `from`; `leaf_index` repeats `from`."""
        newer = query.to or (await self.checkpoint(tenant_id)).size
        tree = tree or await self._logs.of(tenant_id).tree()
        if newer > tree.head.size:
            raise AuditRangeEmpty("The log is not that long.")
        if query.from_ > newer:
            raise Invalid("`from` is the smaller tree.", path="$.from")
        tiles = await tiles_under(self._store, tenant_id, tree, merkle.consistency_ranges(query.from_, newer))
        return _proof(query.from_, newer, merkle.consistency_proof(query.from_, newer, tiles))

    # ---- C2SP tlog-tiles

    async def tile(self, tenant_id: str, path: str) -> bytes:
        """Return the tile or entry bundle at a path below `tile/`. Raises: AuditRangeEmpty when there is none."""
        try:
            address = parse_path(path)
        except TilePathInvalid:
            raise AuditRangeEmpty("No tile has this path.") from None
        tree = await self._logs.of(tenant_id).tree()
        if width_in(address, tree.head.size) < address.width:
            raise AuditRangeEmpty("The log has no such tile yet.")
        if isinstance(address, BundleAddress):
            return await self._bundle(tenant_id, address)
        return await self._hashes(tenant_id, tree, address)

    async def _bundle(self, tenant_id: str, address: BundleAddress) -> bytes:
        first = address.number * merkle.TILE_WIDTH + 1
        records = await self._store.records(tenant_id, first, address.width)
        if len(records) != address.width:
            raise LogBroken("Records of this bundle are missing; run the log's verification.")
        if not any(r.body for r in records):
            raise AuditRangeEmpty("The records of this bundle are pruned; their hashes are in the tile of level 0.")
        return write_bundle([r.body for r in records])

    async def _hashes(self, tenant_id: str, tree: Tree, address: TileAddress) -> bytes:
        number, edge = tree.tiling.edge(address.level)
        if number == address.number:
            return b"".join(edge[: address.width])
        stored = await self._store.tiles(tenant_id, [(address.level, address.number)])
        with suppress(KeyError):
            hashes = stored[address.level, address.number][: address.width * merkle.HASH_BYTES]
            if len(split_hashes(hashes)) == address.width:
                return hashes
        raise LogBroken("The tile is missing; run the log's verification.")


def size_of(note: str) -> int:
    """Return how many records a checkpoint is of; 0 for none."""
    return parse_checkpoint(parse_note(note).text).size if note else 0


def _proof(leaf_index: int, tree_size: int, hashes: Sequence[bytes]) -> Proof:
    return Proof(leaf_index=leaf_index, tree_size=tree_size, hashes=[h.hex() for h in hashes])
