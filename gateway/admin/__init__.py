"""The admin plane: health, metrics, tasks, overrides. On aiohttp, never on the data path."""
