"""The ledger: what happened, in SQL. Redis holds balances; what they came from is kept here.

A writer process drains each tenant's stream (`store/lua/shared.lua`) into the tables of `schema`;
nothing on the way of a call waits for it, or knows of SQL.
"""
