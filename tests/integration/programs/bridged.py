"""A program for the bridge: does what the input says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


def wait_for(path: str) -> None:
    while not os.path.exists(path):  # noqa: PTH110  # as few imports as may be
        time.sleep(0.01)


for line in sys.stdin:
    asked = json.loads(line)
    print(f"at work on {asked['subtask']}", file=sys.stderr, flush=True)
    match asked["input"]["do"]:
        case "echo":
            say(progress=0.5, text="half", step="echoing")
            time.sleep(asked["input"].get("takes_s", 0))
            say(result={**asked, "pid": os.getpid()})
        case "twice":
            print('{"result": "first"}\n{"result": "second"}', flush=True)
        case "late":
            say(result="first")
            wait_for(asked["input"]["go"])
            say(result="second")
        case "echoes":
            more = asked["input"]["more"]
            say(progress=0.5, epoch=asked["epoch"], key=asked["key"])
            say(result=os.getpid(), epoch=asked["epoch"] - more, key=asked["key"])
        case "add up":
            done = 0.0
            for _ in range(20):
                done += 1 / 20
                say(progress=done, step="adding")
            say(result=done)
        case "large":
            say(result="x" * asked["input"]["bytes"])
        case "fail":
            say(error="no such page", retryable=False, details={"status": 404, "message": "gone"})
        case "busy":
            say(error="come again", after_s=0.1, details={"attempt": asked["attempt"]})
        case "spend":
            say(usage={"tokens": 12})
            say(progress=0.5, usage={"tokens": 3, "money": 0.5})
            if asked["attempt"] == 1:
                say(error="come again", usage={"tokens": 5})
            else:
                say(result=1, usage={"money": 0.25})
        case "steal":
            say(result=1, usage={"tokens": -12})
        case "die":
            print("out of luck", file=sys.stderr, flush=True)
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave something behind":
            left = subprocess.Popen(["sleep", "60"])  # noqa: S607  # it keeps stdout open
            print(f"left {left.pid}", file=sys.stderr, flush=True)
            sys.exit(4)
        case "nonsense":
            print("Loading the model ...", flush=True)
        case "both":
            say(result=1, error="x")
        case "too far":
            say(progress=7)
            say(result=1)
        case "last":
            say(result=os.getpid())
            break
        case "hang":
            say(progress=0.1, text=str(os.getpid()))
            time.sleep(60)
