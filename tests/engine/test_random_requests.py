"""Every endpoint with parameters and bodies of every kind, from several clients: no 500 that is the engine's fault."""

from __future__ import annotations

import http.client
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

from runtime.api.handlers import ROUTES
from tests.engine.conftest import NewEngine
from tests.engine.test_containers import create
from tests.harness import RunningEngine

CLIENTS, REQUESTS = 4, 200
# What asks other hosts, lasts as long as its client, or says an honest 500 (ps refuses its arguments).
LEFT_OUT = re.compile(r"/(events|auth|grpc|session|build|wait|attach|ws|create|search|top)$|push|distribution|agents")
CREATED = ("/containers/create", "/networks/create", "/volumes/create")
NAMES = ("box", "made", "nosuch", "%00", "..", "a" * 300, "busybox", "bridge")
PARAMETERS = re.findall(
    r"\S+",
    """
    all force v t h w limit size tail since signal name path repo tag
    filters platform condition container changes names shared-size detachKeys verbose type
    """,
)
TEXTS = ("", "1", "-1", "x", "1.5", "9" * 25, "\0", "é" * 40, "../..", "/etc", "box", "{}", "[]", "null", '{"a": 1}')
FILTERS = ('{"label": ["a"]}', '{"until": ["1h"]}', '{"name": [1]}', '{"dangling": {"true": true}}', '{"label": null}')
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1 << 63,
    "",
    "x",
    "/a:/b",
    "\0",
    [],
    ["x"],
    [None],
    {},
    {"a": 1},
    [{}],
)
FIELDS = re.findall(
    r"\w+",
    """
    Image Cmd Env User Labels Tty Healthcheck ExposedPorts Volumes StopTimeout Entrypoint WorkingDir Hostname
    MacAddress Name Driver DriverOpts IPAM Options Container EndpointConfig ConsoleSize DetachKeys RestartPolicy
    Memory
    """,
)
HOST_FIELDS = re.findall(
    r"\w+",
    """
    Binds Memory NanoCpus PidsLimit PortBindings RestartPolicy LogConfig Mounts Ulimits Devices DeviceRequests
    CapAdd SecurityOpt Tmpfs Sysctls ShmSize NetworkMode IpcMode PidMode ExtraHosts Dns GroupAdd CpusetCpus
    BlkioWeight Links OomScoreAdj StorageOpt VolumesFrom BlkioDeviceReadBps ConsoleSize Annotations MaskedPaths
    DeviceCgroupRules Runtime
    """,
)


def random_body(chance: random.Random) -> dict[str, Any]:
    body = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randrange(4))}
    body["HostConfig"] = {name: chance.choice(VALUES) for name in chance.sample(HOST_FIELDS, chance.randrange(4))}
    return {"Image": "busybox", "Cmd": ["true"], **body}


def faults(engine: RunningEngine, seed: int) -> list[str]:
    chance = random.Random(seed)
    served = [(method, path) for method, path, _ in ROUTES if path in CREATED or not LEFT_OUT.search(path)]
    found = []
    for _ in range(REQUESTS):
        method, template = chance.choice(served)
        if method == "DELETE" and "images" in template:
            continue
        path = re.sub(r"\{[^}]*\}", lambda _: quote(chance.choice(NAMES), safe="%"), template)
        query = {name: chance.choice(TEXTS + FILTERS) for name in chance.sample(PARAMETERS, 3)}
        query |= {"stream": "0", "one-shot": "1", "follow": "0", "until": "1"}
        body = random_body(chance) if method in ("POST", "PUT") else None
        try:
            status, answer = engine.request(method, f"{path}?{urlencode(query)}", body)
        except http.client.HTTPException as error:
            status, answer = 500, repr(error).encode()
        if status == 500 and b"is not paused" not in answer:
            found.append(f"{method} {path}?{urlencode(query)} {json.dumps(body)}: {answer.decode()}")
    return found


def test_nothing_a_client_sends_is_a_fault_of_the_engine(new_engine: NewEngine) -> None:
    engine = new_engine()
    for name in ("box", "made"):
        create(engine, "sleep", "100", name=name, StopSignal="SIGKILL")
    engine.post("/containers/box/start")
    with ThreadPoolExecutor(CLIENTS) as clients:
        found = list(clients.map(lambda seed: faults(engine, seed), range(CLIENTS)))
    assert found == [[]] * CLIENTS
    assert "Traceback" not in engine.log()
