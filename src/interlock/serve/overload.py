"""Telling a lasting overload from a burst, by what arrives and what is taken up."""

from __future__ import annotations

# How many of the last batches, and of the last requests that came, weigh most.
_BATCHES, _REQUESTS = 32, 64
# An overload begins only where threads waited for less than this share of the batches; at 80% of
# what they can do, two threads wait for about a third.
_SELDOM = 0.2
# The more often threads wait, the more must arrive for each request that is taken up: while a
# burst is worked off they hardly wait, either, but then less arrives than is taken up.
_MORE, _SLOPE = 1.03, 3.0
# It goes on while so many arrive: a short queue leaves threads without work now and then, also at
# three times of what they can do.
_MANY = 1.15
# Seconds for which no thread waits in an overload; after such a pause a burst has its room again.
_PAUSE = 1.0


class Overload:
    """Whether more requests arrive than are answered, and not only for a moment.

    It counts batches and requests and not time, so that a machine that stood still is no overload.
    """

    def __init__(self) -> None:
        self.lasting = False
        self._idle = 1.0  # share of late of the batches for which a thread had to wait
        self._arrived = self._taken = float(_REQUESTS)
        self._came = 0  # since the last batch was taken up

    def arrived(self) -> None:
        """A request came, whether there was room for it or not."""
        self._came += 1

    def taken(self, requests: int, waited: float, *, crowded: bool) -> None:
        """A thread takes up a batch of so many requests, for which it waited so many seconds.

        crowded  whether at least half of the queue was full before. A machine that is slow for a
                 second fills less, and is no overload
        """
        if waited > _PAUSE:
            self._idle = 1.0
            self._arrived = self._taken = float(_REQUESTS)
        kept = (1.0 - 1.0 / _REQUESTS) ** self._came
        self._arrived = self._arrived * kept + self._came
        self._taken = self._taken * kept + requests
        self._came = 0
        self._idle += ((waited > 0.0) - self._idle) / _BATCHES
        more = self._arrived / self._taken
        begins = crowded and self._idle < _SELDOM and more > _MORE + _SLOPE * self._idle
        self.lasting = begins or (self.lasting and more > _MANY)
