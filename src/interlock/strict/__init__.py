"""P/Q inference with fail-closed bottom and gap masks."""
