"""Limits that hold: `Budget` is what a caller sets, `RequestBudget` what enforces it on one request."""

from duet_sdk.budget.budget import RequestBudget, Reservation, UsdOf
from duet_sdk.types import Budget

__all__ = ["Budget", "RequestBudget", "Reservation", "UsdOf"]
