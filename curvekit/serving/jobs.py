"""A search's trials and an experiment's runs on the machines of a Ray cluster, in a folder that all of them share.

Ray starts the work and, where a process dies, starts it again; what is done lies in the folder, as on one machine, and
so do the results. A trial whose searcher was killed is held by nobody and is tried again; a run that was killed goes on
from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.experiments.search import Plan, load_search, search
from curvekit.serving.running import extra
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train
from curvekit.variants.plugins import load_plugin

SECONDS = 5.0  # in which a cluster must answer
RETRIES = 5


def search_on(
    address: str, config: RunConfig, plan: Plan, folder: Path, searchers: int | None, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Run a search on a cluster.

    Args:
        address: ``HOST:PORT`` of its head, ``auto`` for the one that this machine belongs to, ``local`` for one of
            this machine alone.
        folder: on a disk that all machines share.
        searchers: how many; by default as many as the cluster has GPUs, or else machines.

    Raises:
        CurvekitError: ray is not installed, or nothing answers within 5 seconds; as :func:`search`; or Ray ended.
    """
    with _cluster(address) as ray:
        gpus = _gpus(ray)
        count = searchers or gpus or len([node for node in ray.nodes() if node["Alive"]])
        announce(f"{count} searchers on {address}, {gpus} GPUs")
        _done(ray, address, _search, [(config.to_dict(), plan, *_shared(folder))] * count)
    return load_search(folder)


def train_on(
    address: str,
    runs: Mapping[Path, RunConfig],
    announce: Callable[[str], None],
    plugins: Sequence[str | Path] = (),
) -> None:
    """Train runs on a cluster, a processor or a GPU each; one that is finished in its folder is kept.

    Args:
        address: as :func:`search_on`.
        runs: by their folders, on a disk that all machines share.
        plugins: files that register what the runs need, on that disk too.

    Raises:
        CurvekitError: as :func:`search_on`, and :func:`curvekit.training.trainer.train`.
    """
    with _cluster(address) as ray:
        announce(f"{len(runs)} runs on {address}, {_gpus(ray)} GPUs")
        files = [str(Path(file).resolve()) for file in plugins]
        _done(ray, address, _train, [(run.to_dict(), files, *_shared(place)) for place, run in runs.items()])


def _gpus(ray: Any) -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _shared(folder: Path) -> tuple[str, str]:
    """A folder, and what of its path is there already and must be seen by every machine."""
    folder = folder.resolve()
    return str(folder), str(next(each for each in folder.parents if each.exists()))


def _done(ray: Any, address: str, work: Callable[..., str], of: Sequence[tuple[Any, ...]]) -> None:
    """Do some work by as many processes as there are arguments for it, and wait for all."""
    task = ray.remote(num_cpus=1, num_gpus=1 if _gpus(ray) else 0, max_retries=RETRIES)(work)
    try:
        refused = next((each for each in ray.get([task.remote(*arguments) for arguments in of]) if each), None)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise CurvekitError(
            f"Ray at {address} ended in the middle of the work ({first_line(error)}); start it and give the same "
            "command again, it goes on"
        ) from error
    if refused:
        raise CurvekitError(refused)


def _search(settings: dict[str, Any], plan: Plan, folder: str, shared: str) -> str:
    """One searcher: the search as on one machine; what it refuses, as words."""
    return _refusal(shared, lambda: search(RunConfig.from_dict(settings), plan, folder, announce=print))


def _train(settings: dict[str, Any], plugins: Sequence[str], folder: str, shared: str) -> str:
    """One run, as on one machine; what it refuses, as words."""

    def work() -> None:
        for file in plugins:
            load_plugin(file)
        train(RunConfig.from_dict(settings), folder)

    return _refusal(shared, work)


def _refusal(shared: str, work: Callable[[], object]) -> str:
    if not Path(shared).exists():
        return f"a machine of the cluster does not see {shared}; name a folder that all of them share"
    try:
        work()
    except CurvekitError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, joined to a cluster."""
    with extra("ray"):
        import ray
    if address not in ("auto", "local"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        except (OSError, ValueError) as error:
            raise CurvekitError(
                f"no Ray answers at {address!r} within {SECONDS:.0f} s ({first_line(error)}); give HOST:PORT of a "
                "cluster's head, auto or local"
            ) from error
    try:
        if address == "local":
            ray.init(include_dashboard=False, log_to_driver=True)
        else:
            ray.init(address=address, log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise CurvekitError(f"Ray at {address!r} cannot be used ({first_line(error)}); start it first") from error
    try:
        yield ray
    finally:
        ray.shutdown()
