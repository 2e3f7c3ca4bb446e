"""Pure rules: values in, values out. No I/O, no clock, no asyncio, no logging."""
