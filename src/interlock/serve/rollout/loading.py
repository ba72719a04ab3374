"""Opening versions of one model: with which settings, and what may stand beside the old one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from interlock.kernel.errors import BundleIntegrityError, ConfigError
from interlock.serve.rollout.store import Running, Source
from interlock.serve.settings import ModelKind, ModelSettings
from interlock.serve.version import Version, check_interface

if TYPE_CHECKING:
    from interlock.serve.hosting import Hosted


class Loader:
    """Opens versions of one model, and lets go of those that come to nothing.

    open   loads and tests a version
    check  raises for files of a version that are gone or others; loads nothing
    """

    def __init__(
        self,
        hosted: Hosted,
        open: Callable[[ModelSettings], Version],
        check: Callable[[ModelSettings], None],
    ) -> None:
        self._hosted = hosted
        self._own = hosted.settings
        self._open = open
        self._check = check

    @property
    def home(self) -> str:
        """The path that the configuration says is to be served."""
        own = self._own
        return own.candidate if own.use_candidate and own.candidate else own.path

    def open(self, path: str, digest: str | None, *, home: bool = False) -> Version:
        """The version at a path; at `home` the configuration's digest and kind count.

        Raises BundleIntegrityError for another digest than these, and what loading raises.
        """
        return self._open(self._settings_of(path, digest, home))

    def candidate(self, path: str, digest: str | None, stable: Version) -> Version:
        """A version to stand beside `stable`.

        Raises ConfigError for another interface or the same version, and what `open` raises.
        """
        with self.kept_only_if(self.open(path, digest)) as version:
            check_interface(version.served, stable.served)
            if version.digest == stable.digest:
                raise ConfigError(f"{path} is the version that is served already")
        return version

    def check_files(self, running: Running) -> None:
        """Raise what loading the candidate again would, where its files are gone or others.

        A promotion that the next start could not take up would leave the model without a version.
        """
        found = running.candidate
        self._check(self._settings_of(found.path, found.digest, False))

    @contextmanager
    def kept_only_if(self, version: Version) -> Iterator[Version]:
        """A version that ends where the block raises, unless it had traffic before."""
        traffic = self._hosted.traffic
        try:
            yield version
        except BaseException:
            if traffic is None or version not in (traffic.stable, traffic.candidate):
                self._hosted.retire(version, 0.0)
            raise

    def _settings_of(self, path: str, digest: str | None, home: bool) -> ModelSettings:
        own = self._own
        if not home:
            return msgspec.structs.replace(own, path=path, expected_digest=digest, kind="auto")
        pinned = own.candidate_digest if own.use_candidate else own.expected_digest
        if pinned is not None and digest not in (None, pinned):
            raise BundleIntegrityError(f"the configuration expects {pinned}, not {digest}")
        kind: ModelKind = "auto" if own.use_candidate else own.kind
        return msgspec.structs.replace(own, path=path, expected_digest=digest or pinned, kind=kind)


def source_of(version: Version) -> Source:
    """Where a version came from, to be recorded."""
    return Source(version.settings.path, version.digest)
