"""Calls of one dialect translated for a provider that speaks another, by litellm.

Runs in a process of its own (`gateway/translator_app.py`), which alone imports litellm. To a worker
it is a provider like any other, on a unix socket; see `docs/translated-routes.md`.
"""
