"""Who makes the units: this process, a pool of spawned ones, or the workers of a Dask cluster.

An executor is one function, `run`: it takes the work, a picklable callable that makes and writes the unit of a
given number, and the numbers to do, and yields each when its unit lies whole on the disk, in whatever order.
Units are the only tasks there are, so no two workers ever share a file; who runs them decides nothing about
what is in them.

`local` spawns processes, one thread each, that end when their parent does, however it ends. `dask` sends the
units to a cluster that stands already; its workers need this package in the same versions, and see the output
under the same path. A unit whose worker died is sent to another one, which writes it only if the dead one had
not finished it: the unit's markers tell.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, Final, Literal

from ..stores.errors import BAD_ENVIRONMENT, HandloomError, missing_extra

if TYPE_CHECKING:
    from distributed import Client

Work = Callable[[int], int]
"""Makes and writes the unit of a number and gives the number back; picklable."""
Execute = Callable[[Work, Sequence[int]], Iterator[int]]
ExecutorName = Literal["local", "dask"]


@dataclass(frozen=True, slots=True)
class Executor:
    """Something that makes units."""

    run: Execute
    workers: int
    """How many units it makes at a time, now."""


CONNECT_S: Final = 8.0
"""Longest wait for a scheduler and its first worker."""
AHEAD: Final = 4
"""Units that wait at each Dask thread, so that none idles and a cancelled run leaves little behind."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Read by numpy and numba when they are imported."""
_AGAIN: Final = "then run again with --resume: what is committed stays as it is"
_ONE_AT_A_TIME: Final = threading.Lock()


@contextmanager
def open_executor(
    name: ExecutorName, *, jobs: int, scheduler: str | None, versions: Mapping[str, str]
) -> Iterator[Executor]:
    """The executor of that name, reachable and fit for the work.

    Args:
        name: which.
        jobs: processes of `local`; one works in this process.
        scheduler: address of `dask`'s scheduler, tcp://host:port.
        versions: of the packages that decide what a frame looks like; `dask`'s workers must have the same.

    Raises:
        HandloomError: a scheduler was given to `local`; the cluster cannot be reached, has no workers or others
            than these versions; later, while units are made: a worker process died.
    """
    if name == "local":
        if scheduler:
            raise HandloomError(
                "A scheduler is Dask's, and the executor is local", where=f"--scheduler {scheduler}",
                fix="add --executor dask, or leave it out",
            )  # fmt: skip
        yield Executor(lambda work, units: _local(work, units, jobs), jobs)
        return
    if not scheduler:
        raise HandloomError(
            "Dask needs the address of its scheduler", fix="add --scheduler tcp://HOST:8786, as 'dask scheduler' says"
        )
    with _connected(scheduler) as client:
        _check_workers(client, scheduler, versions)
        yield Executor(lambda work, units: _dask(client, scheduler, work, units), _threads(client))


def _local(work: Work, units: Sequence[int], jobs: int) -> Iterator[int]:
    if jobs == 1 or len(units) < 2:
        yield from map(work, units)
        return
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            min(jobs, len(units)), mp_context=get_context("spawn"), initializer=_end_with_parent
        )  # fmt: skip
        try:
            pending = {pool.submit(work, unit) for unit in units}
            while pending:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        except BrokenProcessPool as error:
            raise HandloomError(
                "A worker process died",
                why="the system ended it, most often for want of memory",
                fix=f"fewer --jobs; {_AGAIN}",
                exit_code=BAD_ENVIRONMENT,
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Watch the parent: a worker that outlived it would wait for ever, and write into what comes after."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="handloom-parent", daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let the processes that start meanwhile run one thread each: threads inside one cost more than they give."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- Dask ----------------------------------------------------------------------------------------------------


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise missing_extra("distributed", "dask") from error
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False, name="handloom")
    except (OSError, TimeoutError, ValueError) as error:
        raise HandloomError(
            "The Dask scheduler cannot be reached",
            where=scheduler,
            why=str(error) or f"no answer in {CONNECT_S:.0f} s",
            fix="start it with 'dask scheduler' and give the address that it prints",
            exit_code=BAD_ENVIRONMENT,
        ) from error
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its tracebacks say less than our errors
    try:
        yield client
    finally:
        client.close()
        logger.setLevel(level)


def _check_workers(client: Client, scheduler: str, versions: Mapping[str, str]) -> None:
    """Refuse a cluster without workers, or whose workers would draw other frames."""
    answers: dict[str, Any] = {}
    end = time.monotonic() + CONNECT_S
    while not answers and time.monotonic() < end:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=max(end - time.monotonic(), 0.1))
        found = client.run(_versions_here, tuple(versions), on_error="return")
        answers = {worker: said for worker, said in found.items() if not isinstance(said, OSError)}  # it just died
    if not answers:
        raise HandloomError(
            "The Dask scheduler has no workers",
            where=scheduler,
            fix=f"start some: dask worker {scheduler} --nworkers 8 --nthreads 1",
            exit_code=BAD_ENVIRONMENT,
        )
    for worker, found in answers.items():
        if isinstance(found, Exception):  # whatever one without the package answers
            raise HandloomError(
                "A Dask worker cannot run Handloom",
                where=worker,
                why=f"{type(found).__name__}: {found}",
                fix="install the same handloom where the workers run",
                exit_code=BAD_ENVIRONMENT,
            ) from found
        other = [name for name in versions if found.get(name) != versions[name]]
        if other:
            raise HandloomError(
                "A Dask worker has other versions and might draw other frames",
                where=worker,
                why="; ".join(f"{name} {found.get(name)} there, {versions[name]} here" for name in other),
                fix="install the same versions where the workers run",
                exit_code=BAD_ENVIRONMENT,
            )


def _versions_here(names: Sequence[str]) -> dict[str, str]:
    from .provenance import versions

    return versions(names)


def _dask(client: Client, scheduler: str, work: Work, units: Sequence[int]) -> Iterator[int]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    left = iter(units)
    finished = as_completed(loop=client.loop)

    def send() -> None:
        """Keep every thread busy, those of workers that came later too."""
        with _lost_as_cancelled():
            threads = _threads(client)
        room = max(AHEAD * max(threads, 1) - finished.count(), 0)
        # Not pure: a unit's number must never stand for a result of another run.
        finished.update([client.submit(_one_at_a_time, work, unit, pure=False) for unit in islice(left, room)])

    try:
        send()
        for future in finished:
            yield future.result()
            send()
    except KilledWorker as error:
        raise HandloomError(
            "Dask gave a unit up: every worker that tried it died",
            where=scheduler,
            why="the systems ended them, most often for want of memory",
            fix=f"see the workers' logs; {_AGAIN}",
            exit_code=BAD_ENVIRONMENT,
        ) from error
    except CancelledError as error:
        raise HandloomError(
            "The Dask scheduler went away",
            where=scheduler,
            why="the connection was lost while units were being made",
            fix=f"start it again; {_AGAIN}",
            exit_code=BAD_ENVIRONMENT,
        ) from error


@contextmanager
def _lost_as_cancelled() -> Iterator[None]:
    """A scheduler that does not answer is gone; an OSError of a worker's disk is another matter."""
    try:
        yield
    except OSError as error:
        raise CancelledError from error


def _threads(client: Client) -> int:
    return sum(client.nthreads().values())


def _one_at_a_time(work: Work, unit: int) -> int:
    """Renderers and caches belong to a process: the threads of a Dask worker take turns."""
    with _ONE_AT_A_TIME:
        return work(unit)
