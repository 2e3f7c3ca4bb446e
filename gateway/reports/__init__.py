"""Budget reports: what a task used against its limits, for people and for machines.

`building` makes the `Report` of a task's balances and of what the ledger knows; `markdown` and
`document` render it; `evidence` names the files, and `reporter` writes them.
"""
