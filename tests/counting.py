"""Counts what is asked of stores."""

from collections import Counter

from components.core.stores.files import FileStore
from components.core.stores.s3 import S3Store

METHODS = ("read_versioned", "write", "download", "upload", "list", "stat", "delete")


def count_requests(monkeypatch) -> Counter[str]:
    """The requests to all stores from now on, as `method key`, without what is in a key from the first version on."""
    asked: Counter[str] = Counter()

    def counted(method, real):
        def call(self, *arguments, **options):
            key = options.get("prefix", next((str(one) for one in arguments if isinstance(one, str)), ""))
            asked[f"{method} {key.split('/r0')[0]}"] += 1
            return real(self, *arguments, **options)

        return call

    for kind in (FileStore, S3Store):
        for method in METHODS:
            monkeypatch.setattr(kind, method, counted(method, getattr(kind, method)))
    return asked
