"""Imported, and never reached, by the tests of the peer's bundle format."""

BUNDLE_FORMAT = BUNDLE_METADATA_SCHEMA_NAME = "not offered"
BUNDLE_FORMAT_VERSION = BUNDLE_METADATA_SCHEMA_VERSION = 2
