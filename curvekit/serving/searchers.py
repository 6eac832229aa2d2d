"""A search on the machines of a Ray cluster: each works on the trials of one folder, which all of them share.

Ray starts the searchers and, where one dies, starts another; the study itself lies in the search's folder, as on one
machine, and so do its results. A trial whose searcher was killed is held by nobody and is tried again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from curvekit.errors import CurvekitError, first_line
from curvekit.experiments.search import Plan, load_search, search
from curvekit.serving.running import extra
from curvekit.training.settings import RunConfig

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
    with extra("ray"):
        import ray
        from ray.exceptions import RayError, RayTaskError
    with _cluster(ray, address):
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = searchers or gpus or len([node for node in ray.nodes() if node["Alive"]])
        announce(f"{count} searchers on {address}, {gpus} GPUs")
        work = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=RETRIES)(_work)
        tasks = [work.remote(config.to_dict(), plan, str(folder.resolve())) for _ in range(count)]
        try:
            refused = next((each for each in ray.get(tasks) if each), None)
        except RayTaskError:
            raise
        except RayError as error:
            raise CurvekitError(
                f"Ray at {address} ended in the middle of the search ({first_line(error)}); start it and give the "
                "same command again, it goes on"
            ) from error
    if refused:
        raise CurvekitError(refused)
    return load_search(folder)


def _work(settings: dict[str, Any], plan: Plan, folder: str) -> str:
    """One searcher: the search as on one machine; what it refuses, as words."""
    if not Path(folder).parent.exists():
        return f"a machine of the cluster does not see {Path(folder).parent}; name a folder that all of them share"
    try:
        search(RunConfig.from_dict(settings), plan, folder, announce=print)
    except CurvekitError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
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
        yield
    finally:
        ray.shutdown()
