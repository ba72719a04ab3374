"""Run models whose silent mistakes cost money.

Every model answer is accepted, flagged, routed or refused, never silently replaced, and
leaves evidence that someone else can check. Import the part that you need:
`interlock.strict`, `interlock.bundle`, `interlock.kernel`.
"""

from interlock import errors

__version__ = "0.1.0"

__all__ = ["__version__", "errors"]
