"""One wire format a file: how a request names model and ceiling, how an answer reports usage."""
