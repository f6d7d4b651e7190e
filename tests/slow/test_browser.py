"""MLflow as a person opens it: the printed address in a browser."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import aiohttp
import pytest
from ignite.engine import Engine

from scripts.training.tracking import Tracker
from scripts.training.tracking_store import LOCAL_PAGE, run_table

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 240
"""Seconds, on busy cores."""

PORT = 5078


@pytest.fixture
def started():
    """Return the function that starts a program which ends with the test."""
    programs = []

    def start(*words):
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        programs.append(subprocess.Popen(list(map(str, words)), **options))

    yield start
    for program in programs:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait(30)


async def text_of_page(devtools, address, expected):
    """Open an address, and return the text of its page once it holds what is expected, or when patience ends."""
    async with aiohttp.ClientSession() as session, session.put(f"{devtools}/json/new?about:blank") as answer:
        target = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(target, max_msg_size=0) as socket:

            async def ask(method, **values):
                await socket.send_json({"id": 1, "method": method, "params": values})
                while "id" not in (reply := await socket.receive_json()):
                    pass
                return reply["result"]

            await ask("Page.navigate", url=address)
            text = ""
            for _ in range(PATIENCE):
                await asyncio.sleep(1)
                found = await ask("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
                text = str(found["result"].get("value", ""))
                if expected in text:
                    break
            return text


def track(uri, folder, **options):
    tracker = Tracker(uri, "finetune", str(folder), **options)
    engine = Engine(lambda *_: None)
    tracker.start(engine)
    run_id, experiment = tracker.run_id, tracker.cur_run.info.experiment_id
    tracker.close()
    return run_id, experiment


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_the_printed_address_opens_the_table_of_runs(started, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parameters = {"task": "segmentation", "initialisation": "artifact_removal", "train_size": 1, "seed": 0}
    parameters |= {"dataset_dir": str(tmp_path / "clinical"), "cohort": "c" * 64}
    training, experiment = track(uri, tmp_path / "a", parameters=parameters, tags={"stage": "fine-tuning"})
    track(uri, tmp_path / "b", parameters=parameters, tags={"stage": "evaluation"}, parent=training)

    page = run_table(uri, experiment).partition(", then ")[2].replace(LOCAL_PAGE, f"http://127.0.0.1:{PORT}")
    started(sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", PORT, "--workers", 1)
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    started(BROWSER, *quiet, "--remote-debugging-port=0", f"--user-data-dir={tmp_path}/browser")
    place = tmp_path / "browser" / "DevToolsActivePort"
    for _ in range(PATIENCE):
        if place.is_file() and answers(f"http://127.0.0.1:{PORT}/"):
            break
        time.sleep(1)
    devtools = f"http://127.0.0.1:{place.read_text().splitlines()[0]}"
    text = asyncio.run(text_of_page(devtools, page, "segmentation ·"))
    (name,) = [line for line in text.splitlines() if line.startswith("segmentation")]
    # the evaluation is folded under its training
    assert name == "segmentation · artifact_removal · n=1 · seed 0"
    assert "2 matching runs" in " ".join(text.split())
    assert f"{tmp_path.name}/clinical" in text


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False
