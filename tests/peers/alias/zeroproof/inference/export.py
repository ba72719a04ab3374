"""What a fixture of the peer's tests replaces."""


def require_onnx_export_dependencies(**options: object) -> None:
    """Nothing to require: ONNX is part of the core."""
