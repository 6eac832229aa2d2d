"""``curvekit serve``: models over HTTP, in the kit's own words and in OpenAI's, with a page to try them on."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from curvekit.cli.addresses import add_address
from curvekit.cli.flags import Commands, add_plugin, command, positive
from curvekit.errors import CurvekitError

BOUNDS = {  # flag -> (field of Limits, help)
    "most-tokens": ("tokens", "new tokens of one continuation at most"),
    "batch": ("batch", "continuations that a model writes at once"),
    "waiting": ("waiting", "continuations that may wait; more are told to come back"),
    "seconds": ("seconds", "after which a continuation ends as it is"),
    "body": ("body", "bytes of a request at most"),
    "most-characters": ("prompt", "characters of a request's prompts at most"),
}


def add(commands: Commands) -> None:
    each = command(
        commands,
        "serve",
        run,
        "serve models over HTTP: /generate, OpenAI's dialect, a page to try them on",
        "  curvekit serve mini                          http://127.0.0.1:8000\n"
        "  curvekit serve runs/curve runs/gpt2 --port 9000\n"
        "  curvekit serve mini --host 0.0.0.0 --key-file key.txt\n"
        "  curvekit serve mini --ray --replicas 2       on a Ray cluster, or a local one",
    )
    add_address(each, 8000, "the key that clients must give")
    each.add_argument(
        "--log-requests",
        action="store_true",
        help="a line for each request: its time, route and status; never its text",
    )
    for flag, (_, help) in BOUNDS.items():
        each.add_argument(f"--{flag}", type=positive, metavar="N", help=help)
    each.add_argument("--ray", action="store_true", help="deploy with Ray Serve (extra ray)")
    each.add_argument(
        "--replicas", type=positive, metavar="N", help="with --ray: copies of the service, at least (default: 1)"
    )
    each.add_argument(
        "--most-replicas", type=positive, metavar="N", help="with --ray: copies at most, as the load asks"
    )
    add_plugin(each)


def _scale(arguments: argparse.Namespace) -> None:
    least, most = arguments.replicas, arguments.most_replicas
    if (least or most) and not arguments.ray:
        raise CurvekitError("--replicas and --most-replicas are copies on a Ray cluster; add --ray, or leave them out")
    if arguments.ray and arguments.log_requests:
        raise CurvekitError("--log-requests is for one machine; Ray keeps logs of its own, so leave it out")
    if most and most < (least or 1):
        raise CurvekitError(f"--most-replicas is {most}, fewer than --replicas {least}; give as many or more")


def run(arguments: argparse.Namespace) -> None:
    from curvekit.serving import running

    _scale(arguments)
    key = running.key_of(arguments.host, arguments.key_file, os.environ)
    with running.extra():
        from curvekit.serving.orders import Limits
        from curvekit.serving.service import application
    bounds = {
        name: value for flag, (name, _) in BOUNDS.items() if (value := getattr(arguments, flag.replace("-", "_")))
    }
    limits = Limits(**bounds)
    if arguments.ray and arguments.plugin:
        raise CurvekitError("--plugin is run in this process, and --ray serves from others; leave one of them out")
    logging.basicConfig(stream=sys.stderr, format="curvekit: %(message)s", level=logging.WARNING)
    if arguments.log_requests:
        logging.getLogger("curvekit.requests").setLevel(logging.INFO)

    def announce(url: str, names: Iterable[str]) -> None:
        header = " -H 'Authorization: Bearer '\"$CURVEKIT_API_KEY\"" if key else ""
        print(f"{url} serves {', '.join(names)}; Ctrl-C ends it", flush=True)
        body = json.dumps({"prompt": "The river", "max_new_tokens": 20, "seed": 0})
        print(f"curl {url}/generate{header} -H 'Content-Type: application/json' -d '{body}'", flush=True)

    own: dict[str, Any] = {"limits": limits, "key": key}
    if arguments.ray:
        from curvekit.serving.clusters import deploy

        scale = {"replicas": arguments.replicas or 1, "most_replicas": arguments.most_replicas}
        deploy(arguments.models, arguments.host, arguments.port, announce, **scale, **own)
        return
    bound = running.listening(arguments.host, arguments.port)
    voices = running.gathered(arguments.models)
    app = application(voices, hosts=running.names_of(arguments.host), log=arguments.log_requests, **own)
    running.run(app, bound, lambda: announce(running.address(bound), voices))
