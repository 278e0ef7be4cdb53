"""What messaging promises: conversations, members, messages, reactions, receipts and the stream of their events.

Each noun has a contract of its own.
"""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts import conversations, custody, members, messages, messaging_stream
from sealwire.contracts.messaging_terms import SERVICE
from sealwire.kit.operation import table

OPERATIONS = table(
    *conversations.OPERATIONS.values(),
    *members.OPERATIONS.values(),
    *messages.OPERATIONS.values(),
    *messaging_stream.OPERATIONS.values(),
    *custody.operations(SERVICE, custody.SUBJECT, custody.HOLDS, custody.CONVERSATIONS, custody.RETENTION),
)


class Messaging(
    conversations.ConversationDesk,
    members.MemberDesk,
    messages.MessageDesk,
    messaging_stream.MessagingStream,
    custody.Custody,
    custody.ConversationCustody,
    Protocol,
):
    """Messaging, in this process or another. Every call on a conversation may raise `ConversationNotFound`."""
