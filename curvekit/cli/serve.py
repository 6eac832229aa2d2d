"""``curvekit serve``: models over HTTP, in the kit's own words and in OpenAI's, with a page to try them on."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import fields

from curvekit.cli.flags import Commands, add_plugin, command, path, positive
from curvekit.cli.printing import say
from curvekit.errors import CurvekitError

BOUNDS = {  # flag -> (field of Limits, help)
    "most-tokens": ("tokens", "new tokens of one continuation at most"),
    "batch": ("batch", "continuations that a model writes at once"),
    "waiting": ("waiting", "continuations that may wait; more are told to come back"),
    "seconds": ("seconds", "after which a continuation ends as it is"),
    "body": ("body", "bytes of a request at most"),
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
    each.add_argument("models", nargs="+", metavar="MODEL", help="a base, a run's folder or a saved model's folder")
    each.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: %(default)s: this machine)"
    )
    each.add_argument("--port", type=int, default=8000, metavar="N", help="0: a free one (default: %(default)s)")
    each.add_argument(
        "--key-file", type=path, metavar="FILE", help="holds the key that clients must give; or CURVEKIT_API_KEY"
    )
    each.add_argument(
        "--log-requests",
        action="store_true",
        help="a line for each request: its time, route and status; never its text",
    )
    for flag, (_, help) in BOUNDS.items():
        each.add_argument(f"--{flag}", type=positive, metavar="N", help=help)
    each.add_argument("--ray", action="store_true", help="deploy with Ray Serve (extra ray)")
    each.add_argument(
        "--replicas", type=positive, default=1, metavar="N", help="with --ray: copies of the service, at least"
    )
    each.add_argument(
        "--most-replicas", type=positive, metavar="N", help="with --ray: copies at most, as the load asks"
    )
    add_plugin(each)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.serving import running

    key = running.key_of(arguments.host, arguments.key_file, os.environ)
    try:
        from curvekit.serving.orders import Limits
        from curvekit.serving.service import application
    except ImportError as error:
        raise running.needs_extra() from error
    bounds = {
        name: value for flag, (name, _) in BOUNDS.items() if (value := getattr(arguments, flag.replace("-", "_")))
    }
    limits = Limits(**{each.name: bounds[each.name] for each in fields(Limits) if each.name in bounds})
    if arguments.ray and arguments.plugin:
        raise CurvekitError("--plugin is run in this process, and --ray serves from others; leave one of them out")
    if arguments.ray:
        from curvekit.serving.clusters import deploy

        deploy(arguments, key, limits, say)
        return
    bound = running.listening(arguments.host, arguments.port)
    voices = running.gathered(arguments.models)
    app = application(voices, limits=limits, key=key, hosts=running.names_of(arguments.host))
    url = running.address(bound)
    logging.basicConfig(stream=sys.stderr, format="curvekit: %(message)s", level=logging.WARNING)

    def announce() -> None:
        header = " -H 'Authorization: Bearer '\"$CURVEKIT_API_KEY\"" if key else ""
        print(f"{url} serves {', '.join(voices)}; Ctrl-C ends it", flush=True)
        body = json.dumps({"prompt": "The river", "max_new_tokens": 20, "seed": 0})
        print(f"curl {url}/generate{header} -H 'Content-Type: application/json' -d '{body}'", flush=True)

    running.run(app, bound, limits.seconds, announce, access_log=arguments.log_requests)
