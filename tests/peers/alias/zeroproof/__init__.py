"""The peer's package names, answered by this project, so that the peer's own tests run against it.

Only calling conventions, names and wordings are adapted here; every decision is the product's.
"""
