"""The provider side of a call: connections, pools, routing."""
