"""Enforced limits: `Budget` bounds one request, a ledger the spending of a tenant, user or session over many."""

from duet_sdk.budget.amount import Amount, Balance, Limit
from duet_sdk.budget.blocking import BlockingHold, BlockingLedger
from duet_sdk.budget.connect import LedgerLike, connect_ledger
from duet_sdk.budget.entry import Entry, EntryFacts, EntryStatus
from duet_sdk.budget.ledger import HOLD_TTL_S, BaseLedger, Hold
from duet_sdk.budget.memory import MemoryLedger
from duet_sdk.budget.open_on_failure import OpenOnFailure
from duet_sdk.budget.redis_ledger import RedisLedger
from duet_sdk.budget.request import RequestBudget, Reservation, UsdOf
from duet_sdk.budget.scope import scope_of
from duet_sdk.budget.sqlite import SqliteLedger
from duet_sdk.policies import Budget

__all__ = [
    "HOLD_TTL_S",
    "Amount",
    "Balance",
    "BaseLedger",
    "BlockingHold",
    "BlockingLedger",
    "Budget",
    "Entry",
    "EntryFacts",
    "EntryStatus",
    "Hold",
    "LedgerLike",
    "Limit",
    "MemoryLedger",
    "OpenOnFailure",
    "RedisLedger",
    "RequestBudget",
    "Reservation",
    "SqliteLedger",
    "UsdOf",
    "connect_ledger",
    "scope_of",
]
