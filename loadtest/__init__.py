"""Tools that put load on the gateway, and the fake provider behind it. Not part of the package."""
