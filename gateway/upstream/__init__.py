"""The provider side of a call: origins, connections, pools, routing by name."""
