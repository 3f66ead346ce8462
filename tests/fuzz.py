"""One parser of `parsers.py` under a fuzzer that is led by coverage, for as long as one likes.

    pip install -c constraints.txt 'handloom[fuzz]'
    PYTHONPATH=.dev python tests/fuzz.py 'rig.toml' --seconds 600
    PYTHONPATH=.dev python tests/fuzz.py --list

Begins with the parser's good file. Whatever is neither read nor refused in words ends the run, prints its traceback,
and leaves the input as `crash-…` in the working folder; so does one that takes more than 2 GB or a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["handloom"]):
    from parsers import PARSERS, Parser, attempt


def main() -> None:
    """Fuzz until the time is over or something is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=list(PARSERS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--list", action="store_true", help="name the parsers")
    options = parser.parse_args()
    if options.list or options.name is None:
        print("\n".join(PARSERS))  # noqa: T201
        return
    chosen = PARSERS[options.name]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    path = folder / chosen.file
    (corpus / "good").write_bytes(_good(chosen, path))

    def once(data: bytes) -> None:
        path.write_bytes(chosen.mended(data))
        attempt(chosen, path)

    limits = [f"-max_total_time={options.seconds}", "-rss_limit_mb=2048", "-timeout=60", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], once)
    atheris.Fuzz()


def _good(chosen: Parser, path: Path) -> bytes:
    """The good file, read once: what a parser imports only then must be instrumented, too."""
    with atheris.instrument_imports(include=["handloom"]):
        good = chosen.good()
        path.write_bytes(chosen.mended(good))
        attempt(chosen, path)
    return good


if __name__ == "__main__":
    main()
