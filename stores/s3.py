"""Closed recordings in S3: a path whose reads are HTTP requests, so that what reads a recording reads it there too.

`S3Path` is a `Path` that answers what readers ask (is it there, its bytes, a part of them, what lies below it) from
a bucket and refuses the rest. Who and where comes from the environment, as for other tools: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL for other servers than Amazon's, AWS_SKIP_SIGNATURE=true for
public buckets. The client is obstore (extra `s3`): one wheel of 5 MB without dependencies, where s3fs needs
aiobotocore, botocore and aiohttp.

A row costs one request for the shard's index and one for its bytes; rows of one shard share both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PosixPath, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .errors import BAD_ENVIRONMENT, HandloomError, missing_extra

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME: Final = "s3:"
TRIES: Final = 3
SETTINGS: Final = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ASK: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL)"


class S3Path(PosixPath):
    """A place in a bucket, for reading; make one with `located`."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Name of the object, or of what lies below it."""
        return "/".join(self.parts[2:])

    @property
    def store(self) -> S3Store:
        """The client of its bucket."""
        return _store(self.bucket, tuple(os.environ.get(name) for name in SETTINGS))

    # -- what readers ask --------------------------------------------------------------------------------

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object, or any below."""
        return self.is_file() or self.is_dir()

    def is_file(self, **_: Any) -> bool:
        """Whether there is such an object."""
        import obstore

        try:
            with asking(self):
                obstore.head(self.store, self.key)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        """Whether any object lies below."""
        return any(True for _ in self._below())

    def read_bytes(self) -> bytes:
        """The whole object."""
        import obstore

        with asking(self):
            return bytes(obstore.get(self.store, self.key).bytes())

    def read_parts(self) -> Iterator[Any]:
        """The whole object in parts of some MB, so that it need not fit in memory."""
        import obstore

        with asking(self):
            yield from obstore.get(self.store, self.key)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """The whole object as UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8")

    def read_tail(self, length: int) -> bytes:
        """The last bytes of the object."""
        import obstore

        with asking(self):
            return bytes(obstore.get(self.store, self.key, options={"range": {"suffix": length}}).bytes())

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of the object, each by offset and length; what lies close together is fetched at once.

        A part beyond the object's end comes back shorter, or empty.
        """
        import obstore

        starts, ends = [start for start, _ in ranges], [start + length for start, length in ranges]
        try:
            with asking(self):
                return [bytes(part) for part in obstore.get_ranges(self.store, self.key, starts=starts, ends=ends)]
        except FileNotFoundError:
            raise
        except HandloomError as error:
            if "InvalidRange" not in error.why:
                raise
            whole = self.read_bytes()  # a shard that was cut short
            return [whole[start : start + length] for start, length in ranges]

    def iterdir(self) -> Generator[S3Path, None, None]:
        """What lies directly below."""
        import obstore

        with asking(self):
            found = obstore.list_with_delimiter(self.store, f"{self.key}/" if self.key else None)
        names = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        if not names:
            raise FileNotFoundError(str(self))
        return (self / name.rstrip("/").rpartition("/")[2] for name in names)

    def glob(self, pattern: str, **_: Any) -> Generator[S3Path, None, None]:
        """What lies in one folder and whose name fits the pattern, such as 'units/*.json'."""
        *folders, name = pattern.split("/")
        assert not any("*" in folder for folder in folders)
        there = self.joinpath(*folders)
        return (entry for entry in (there.iterdir() if there.is_dir() else ()) if fnmatch(entry.name, name))

    def rglob(self, pattern: str, **_: Any) -> Generator[S3Path, None, None]:
        """All objects below; only for the pattern '*'."""
        assert pattern == "*"
        root = self.parts[:2]
        return (type(self)(*root, entry["path"]) for entry in self._below())

    def sizes(self) -> dict[str, int]:
        """Bytes of all objects below, by their path from here."""
        skip = len(self.key) + 1 if self.key else 0
        return {entry["path"][skip:]: int(entry["size"]) for entry in self._below()}

    def resolve(self, strict: bool = False) -> S3Path:
        """Itself."""
        return self

    def relative_to(self, *other: str | PurePath) -> PurePosixPath:  # type: ignore[override]
        """The way from another place in the bucket."""
        return PurePosixPath(*self.parts).relative_to(*(PurePosixPath(*Path(place).parts) for place in other))

    def open(self, *_: Any, **__: Any) -> NoReturn:
        """Not by this: readers ask for bytes."""
        self.refuse()

    def mkdir(self, *_: Any, **__: Any) -> NoReturn:
        """Nothing is written by paths."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Say that recordings in a bucket are only read.

        Raises:
            HandloomError: always.
        """
        raise HandloomError(
            "A recording in S3 is only read",
            where=str(self),
            fix=f"make it on a disk, then: handloom store copy R.zarr {self}",
        )

    def _below(self) -> Iterator[Any]:
        import obstore

        with asking(self):
            for some in obstore.list(self.store, f"{self.key}/" if self.key else None):
                yield from some


def located(path: Path) -> Path:
    """The path as it is, or as an `S3Path` where it begins with s3://.

    Raises:
        HandloomError: there is no bucket in it, or obstore is not installed.
    """
    if isinstance(path, S3Path) or not path.parts or path.parts[0] != SCHEME:
        return path
    if len(path.parts) < 2:
        raise HandloomError("This names no bucket", where=str(path), fix="s3://BUCKET/R.zarr")
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise missing_extra("obstore", "s3") from error
    return S3Path(*path.parts)


@contextmanager
def asking(path: S3Path) -> Iterator[None]:
    """What goes wrong in requests, as a `FileNotFoundError` or in words.

    Raises:
        FileNotFoundError: there is no such object.
        HandloomError: no bucket, no permission, no connection.
    """
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise _refused(path, f"There is no bucket '{path.bucket}'", error, fix="create it, or mend its name",
                           environment=False) from error  # fmt: skip
        raise FileNotFoundError(str(path)) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise _refused(path, "S3 refuses access", error, fix=ASK) from error
    except (BaseError, OSError) as error:
        said = str(error)
        if "NoSuchBucket" in said:
            raise _refused(path, f"There is no bucket '{path.bucket}'", error, fix="create it, or mend its name",
                           environment=False) from error  # fmt: skip
        if any(word in said for word in ("169.254.169.254", "Missing AccessKeyId", "Missing SecretAccessKey")):
            raise _refused(path, "There are no credentials for S3", error, fix=ASK) from error
        if any(word in said for word in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Forbidden")):
            raise _refused(path, "S3 refuses access", error, fix=ASK) from error
        raise _refused(
            path, "S3 cannot be reached, or the request failed", error, fix="look at the network and AWS_ENDPOINT_URL"
        ) from error


def _refused(path: S3Path, what: str, error: Exception, *, fix: str, environment: bool = True) -> HandloomError:
    """An error with what the server said of it, short."""
    text = str(error)
    said = re.search(r"<Code>(.*?)</Code>", text), re.search(r"<Message>(.*?)</Message>", text)
    if said[0] is not None:
        why = ": ".join(part.group(1) for part in said if part is not None)
    else:
        why = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:200]
    options: dict[str, Any] = {"exit_code": BAD_ENVIRONMENT} if environment else {}
    return HandloomError(what, where=str(path), why=why, fix=fix, **options)


@lru_cache(maxsize=32)
def _store(bucket: str, settings: tuple[str | None, ...]) -> S3Store:
    """One client for a bucket and the settings it was made with."""
    from obstore.store import S3Store

    endpoint = settings[0] or ""
    return S3Store(
        bucket,
        virtual_hosted_style_request=not endpoint,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": "5s",
            "timeout": "120s",
        },
        retry_config={
            "max_retries": TRIES - 1,
            "retry_timeout": timedelta(seconds=20),
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


def sizes_below(path: Path) -> dict[str, int]:
    """Bytes of all files below a folder or a place in a bucket, by their path from there."""
    if isinstance(path, S3Path):
        return path.sizes()
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
