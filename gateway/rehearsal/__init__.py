"""Calls that are tried out: planned and decided as on the data path, and never sent.

`trial` makes a call of what is said of it and takes it through planning and deciding; what the
store would answer comes from whoever tries, from the store itself or from `answer`, its
specification.
"""
