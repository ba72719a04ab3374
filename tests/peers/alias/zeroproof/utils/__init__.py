"""Names that the peer's tests import from `zeroproof.utils`."""
