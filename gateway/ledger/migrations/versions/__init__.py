"""One file a version; each can be applied and taken back."""
