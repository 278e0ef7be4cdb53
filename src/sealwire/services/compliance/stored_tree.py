"""The tiles that a tree needs, from storage and from memory, and whether the tree is the one that was signed last."""

from __future__ import annotations

from collections.abc import Sequence

from sealwire.contracts.audit_log import LogBroken
from sealwire.services.compliance import merkle
from sealwire.services.compliance.log_tree import Tree
from sealwire.services.compliance.ports import AuditStore, StoredCheckpoint
from sealwire.services.compliance.tiles import TileMap


async def tiles_under(store: AuditStore, tenant_id: str, tree: Tree, ranges: Sequence[merkle.LeafRange]) -> TileMap:
    """Read the tiles that the roots of these ranges need. Raises: LogBroken when one is missing; so does using them."""
    number, edge = tree.tiling.edge(0)
    needed = merkle.tiles_for(ranges)
    stored = await store.tiles(tenant_id, needed - {(0, number)})
    stored[0, number] = b"".join(edge)
    if missing := needed - stored.keys():
        raise LogBroken(f"{len(missing)} tiles of the audit log are missing; run its verification.")
    return _StoredTiles(stored)


async def require_signed(store: AuditStore, tenant_id: str, tree: Tree, last: StoredCheckpoint | None) -> None:
    """Make sure that the tree continues the last checkpoint. Raises: LogBroken."""
    if last is None:
        return
    if last.size > tree.head.size:
        raise LogBroken("The audit log is shorter than its last checkpoint; run its verification.")
    root = merkle.EMPTY_ROOT
    if last.size:
        root = merkle.range_root(0, last.size, await tiles_under(store, tenant_id, tree, [(0, last.size)]))
    if root != last.root:
        raise LogBroken("The audit log contradicts its last checkpoint; run its verification.")


class _StoredTiles(TileMap):
    """Tiles as they are stored: one that is too short is damaged."""

    def node(self, height: int, number: int) -> bytes:
        try:
            return super().node(height, number)
        except LookupError:
            raise LogBroken("A tile of the audit log is damaged; run its verification.") from None
