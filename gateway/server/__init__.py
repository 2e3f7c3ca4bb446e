"""The client side of a call: our HTTP/1.1 and the wording of our own answers."""
