"""Runs on more than one machine: who dies loses nothing, the same command computes the rest, and rows are those of one
process, to the bit."""

import dataclasses
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray.cluster_utils import Cluster

from fastcam import models
from fastcam.data import Pictures
from fastcam.localization import Plan, Worker, localize, prepare
from fastcam.localization.engines import Rank, local, localize as localize_together, ray, sharing
from fastcam.localization.engines.ray import _Job, compute
from fastcam.localization.engines.sharing import check, first_visible
from fastcam.localization.engines.torchrun import meeting_point
from fastcam.models import ModelConfig
from tests.support.commands import refused, run as run_command
from tests.support.distributed_run import drive, run
from tests.support.engine_run import OPTIONS, Tiny, several
from tests.support.processes import child_ids, children, command_line, descendants, end
from tests.support.runs import STAGES, check_finished, marks, moment, rows_of, seeds, stage

PICTURES = 61  # with batches of 4 and shards of 8: the last of 8 shards has 5
DAMAGED = "007.png"
PLAN = {name: value for name, value in OPTIONS.items() if name != "progress"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        small = Image.fromarray(np.random.default_rng(index).integers(0, 256, (4, 5, 3), np.uint8))
        small.resize((40 + index % 7, 30 + index % 11), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    (folder / DAMAGED).write_bytes((folder / DAMAGED).read_bytes()[:90])
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert localize(Tiny(), folder, out=out, **OPTIONS).codes == {"damaged": 1}
    return out


@pytest.fixture(scope="module")
def context():
    """Processes start from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.distributed_run"])
    return context


@pytest.fixture(scope="module")
def begin(context):
    """Start processes that may be killed."""
    processes = []

    def begin(folder: Path, out: Path, engine: str, **variables: object) -> BaseProcess:
        known = {name: str(value) for name, value in variables.items()}
        processes.append(context.Process(target=run, args=(str(folder), str(out), engine, "0.2"), kwargs=known))
        processes[-1].start()
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.join()


def wait_for(condition, *alive: BaseProcess) -> None:
    limit = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < limit
        assert all(process.is_alive() for process in alive)
        time.sleep(0.01)


def unfinished(out: Path) -> bool:
    return marks(out) < 8 and not (out / "boxes.parquet").exists()


# Processes of one machine; test_engine.py has more


def test_an_interruption_stops_all_processes(folder, undisturbed, tmp_path, begin):
    main = begin(folder, tmp_path, "local")
    wait_for(lambda: marks(tmp_path) >= 2, main)
    workers = children(main.pid)
    assert len(workers) == 2
    for pid in (main.pid, *workers):  # as Ctrl-C does
        os.kill(pid, signal.SIGINT)
    main.join(120)
    assert main.exitcode == 1
    assert unfinished(tmp_path)
    assert not any(map(command_line, workers))
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    check_finished(tmp_path, undisturbed)


class Fatal(Tiny):
    """Ends the process that loads it, and is too large for a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ballast", torch.zeros(1 << 20))

    def __setstate__(self, state: dict) -> None:
        os._exit(3)


def test_workers_that_die_as_they_begin(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "get_context", lambda kind: multiprocessing.get_context("forkserver"))  # faster
    with pytest.raises(RuntimeError, match="3 workers died before their first shard, the last with exit code 3"):
        localize(Fatal(), folder, out=tmp_path, workers=2, **OPTIONS)


# Ranks


def test_variables_that_tell_the_rank():
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}
    assert Rank.here(torchrun) == Rank(5, 8, 1, 4)
    assert Rank.here(slurm) == Rank(2, 3, 0, 1)
    assert Rank.here(slurm | torchrun) == Rank(5, 8, 1, 4)  # torchrun within SLURM
    assert Rank.here({"RANK": "0", "WORLD_SIZE": "1"}) == Rank(0, 1, 0, 1)
    for wrong in ({"RANK": "x", "WORLD_SIZE": "1"}, {"RANK": "2", "WORLD_SIZE": "2"}, torchrun | {"LOCAL_RANK": "-1"}):
        with pytest.raises(ValueError, match="name no rank"):
            Rank.here(wrong)
    with pytest.raises(ValueError, match="by torchrun, or by srun"):
        Rank.here({"RANK": "0"})


def test_ranks_take_turns_with_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Rank(i + 4, 8, i, 4).device("cuda") for i in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Rank(1, 2, 1, 2).device("cpu") == "cpu"


def test_where_ranks_meet():
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_JOB_NODELIST": "login1"}
    for machines, first in (
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("cpu1,gpu[1-2]", "cpu1"),
        ("rack[2,4]-gpu[3-5]", "rack2-gpu3"),
    ):
        assert meeting_point(slurm | {"SLURM_STEP_NODELIST": machines}) == f"tcp://{first}:20219"
    assert meeting_point(slurm) == "tcp://login1:20219"
    assert meeting_point(slurm | {"MASTER_ADDR": "10.0.0.1"}) == "env://"
    with pytest.raises(ValueError, match="nothing tells where the ranks meet: set MASTER_ADDR and MASTER_PORT"):
        meeting_point({})


def as_rank(monkeypatch, rank: int, world: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


def localize_alone(monkeypatch, folder: Path, out: Path):
    as_rank(monkeypatch, 0, 1)
    return localize_together(Tiny(), folder, out=out, engine="torchrun", **OPTIONS)


def test_a_rank_alone(folder, undisturbed, tmp_path, monkeypatch):
    """Whatever ranks of an earlier version have left, killed, is removed."""
    (tmp_path / "ranks").mkdir()
    for name in ("0.json", "1.json", ".1.json.123.tmp"):
        (tmp_path / "ranks" / name).write_text("{")
    summary = localize_alone(monkeypatch, folder, tmp_path)
    assert (summary.pictures, summary.codes) == (PICTURES, {"damaged": 1})
    check_finished(tmp_path, undisturbed)
    assert localize_alone(monkeypatch, folder, tmp_path) == summary
    check_finished(tmp_path, undisturbed)


def test_only_known_engines(folder, tmp_path):
    with pytest.raises(ValueError, match='`engine` must be "torchrun" or "ray", got \'slurm\''):
        localize_together(Tiny(), folder, out=tmp_path, **{"engine": "slurm", **OPTIONS})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def slurm(index: int, count: int, port: int) -> dict[str, str]:
    """The variables of a task on this machine. One that `srun` starts has no MASTER_…: two runs may share this one."""
    known = {"PROCID": index, "NTASKS": count, "LOCALID": index}
    known = {f"SLURM_{name}": str(value) for name, value in known.items()}
    return known | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture(scope="module")
def ranks(context):
    """Start two ranks that are not killed, with options, the second with others, and give what becomes of them."""
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:

        def start(
            folder: Path, out: Path, pause: float = 0, both: dict | None = None, **options: object
        ) -> list[Future]:
            port = free_port()
            each = ((slurm(i, 2, port), (both or {}) | (options if i else {})) for i in range(2))
            arguments = str(folder), str(out), "torchrun", str(pause)
            return [pool.submit(run, *arguments, options=given, **variables) for variables, given in each]

        yield start
        for process in multiprocessing.active_children():  # of a test that failed; the pool would wait for it
            process.kill()


def test_ranks_return_the_same_and_share_the_work(folder, undisturbed, tmp_path, ranks):
    """Also where an earlier start has left a part, a plan or a table: it misleads nobody."""
    plan = prepare(Tiny(), folder, out=tmp_path, **PLAN)
    with Worker(plan, Tiny()) as worker:
        worker.run([0])
    first, second = (rank.result(300) for rank in ranks(folder, tmp_path))
    assert first == second
    assert (first.pictures, first.codes) == (PICTURES, {"damaged": 1})
    check_finished(tmp_path, undisturbed)
    table = (tmp_path / "boxes.parquet").stat()
    assert [rank.result(300) for rank in ranks(folder, tmp_path)] == [first, first]
    assert (tmp_path / "boxes.parquet").stat() == table


def test_a_rank_must_have_the_plans_model_options_and_pictures(folder, tmp_path, ranks):
    """Nobody waits for the one that is refused."""
    first, second = ranks(folder, tmp_path, threshold=0.4)
    with pytest.raises(ValueError, match=r"threshold on .* \(0.2 there, 0.4 here\)"):
        second.result(300)
    with pytest.raises(RuntimeError, match="rank 0 of 2 has lost another, which has failed or was killed") as caught:
        first.result(300)
    plan = Plan.load(tmp_path)
    left = plan.missing()
    assert left in (list(range(8)), [1, 3, 5, 7])  # rank 0 may have done its share before
    assert f"{8 - len(left)} of 8 parts are done; the same call computes the rest" in caught.value.__notes__
    seen = str(folder / f"{8 * left[0]:03d}.png")
    assert first_visible(plan) == seen
    check(plan, {"version": plan.settings.version}, seen)
    with pytest.raises(ValueError, match=r"weights on .* differs from that of the run's plan: rows"):
        check(plan, {"weights": "0"}, None)
    with pytest.raises(ValueError, match=r"version on .* \(.* there, 0.1 here\)"):
        check(plan, {"version": "0.1"}, None)
    with pytest.raises(FileNotFoundError, match=r"does not see /nowhere/000\.png: pictures must be"):
        check(plan, {}, "/nowhere/000.png")


def test_what_stops_rank_0_stops_the_others(folder, tmp_path, ranks):
    """Another plan is refused by rank 0; the other does not take it for this start's."""
    prepare(Tiny(), folder, out=tmp_path, **PLAN | {"threshold": 0.4})
    first, second = ranks(folder, tmp_path, threshold=0.4)
    with pytest.raises(FileExistsError, match=r"made by another plan \(threshold: 0.4 there, 0.2 here\)"):
        first.result(300)
    with pytest.raises(RuntimeError, match="rank 1 of 2 has lost another"):
        second.result(300)
    assert len(Plan.load(tmp_path).missing()) == 8


def test_ranks_that_do_not_come(folder, tmp_path, elsewhere):
    late = elsewhere(run, str(folder), str(tmp_path), "torchrun", "0", start=1, **slurm(1, 2, free_port()))
    with pytest.raises(
        RuntimeError, match="rank 1 of 2 has not met the others: have all been started within 0:00:01, and do"
    ):
        late.result(300)


KILLED = [
    pytest.param(name, seed, marks=[] if name in ("none", "last") else pytest.mark.long)
    for name in ("none", "first", "last", "both")
    for seed in ((0,) if name == "none" else seeds(1))
]


@pytest.mark.parametrize(("name", "seed"), KILLED)
def test_slurm_ranks_of_which_some_are_killed(folder, undisturbed, tmp_path, begin, name, seed):
    """The others end by themselves, with an error, and the same command computes the rest."""
    killed = {"none": [], "first": [0], "last": [1], "both": [0, 1]}[name]
    rng = random.Random(f"{name} {seed}")

    def start(out: Path) -> list[BaseProcess]:
        port = free_port()
        return [begin(folder, out, "torchrun", **slurm(index, 2, port)) for index in range(2)]

    started = start(tmp_path)
    reached, later = moment(rng, range(1, 14))
    wait_for(lambda: stage(tmp_path) >= reached, *started)
    time.sleep(later)
    for rank in killed:
        started[rank].kill()
        print(f"rank {rank} of 2 killed at {STAGES[stage(tmp_path)]}")
    for rank in started:
        rank.join(300)
    codes = [started[rank].exitcode for rank in range(2) if rank not in killed]
    assert set(codes) <= {0, 1}
    if 0 in codes or not killed:
        assert set(codes) == {0}
        check_finished(tmp_path, undisturbed)
    if rng.random() < 0.5:
        localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    else:
        for rank in start(tmp_path):
            rank.join(300)
            assert rank.exitcode == 0
    check_finished(tmp_path, undisturbed)


def torchrun(folder: Path, out: Path, *options: object, pause: float = 0.2) -> subprocess.Popen:
    program = ["-m", "tests.support.distributed_run", folder, out, "torchrun", pause]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", *options, *program]
    return subprocess.Popen([*map(str, command)], cwd=Path(__file__).parents[2])


@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(1))
def test_torchrun_starts_killed_ranks_again(folder, undisturbed, tmp_path, seed):
    rng = random.Random(f"restart {seed}")
    agent = torchrun(folder, tmp_path, 2, "--standalone", "--max-restarts", 1)
    try:
        reached, later = moment(rng, range(2, 9))
        wait_for(lambda: stage(tmp_path) >= reached)
        time.sleep(later)
        workers = [pid for pid in child_ids(agent.pid) if b"distributed_run" in command_line(pid)]
        os.kill(rng.choice(workers), signal.SIGKILL)
        print(f"one of {len(workers)} ranks killed at {STAGES[stage(tmp_path)]}")
        assert agent.wait(300) == 0
        check_finished(tmp_path, undisturbed)
    finally:
        end(agent)


@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(1))
def test_two_torchrun_nodes_of_which_one_is_killed(folder, undisturbed, tmp_path, seed):
    rng = random.Random(f"node {seed}")
    common = [1, "--nnodes", 2, "--master-addr", "127.0.0.1", "--master-port", free_port()]
    nodes = []
    try:
        nodes += (torchrun(folder, tmp_path, *common, "--node-rank", node) for node in range(2))
        victim = rng.randrange(2)
        reached, later = moment(rng, range(2, 10))
        wait_for(lambda: stage(tmp_path) >= reached)
        time.sleep(later)
        end(nodes[victim])
        print(f"node {victim} killed at {STAGES[stage(tmp_path)]}")
        other = nodes[1 - victim].pid
        # The agent of the node that lives on may wait for the other one for minutes, but its rank ends.
        wait_for(lambda: not descendants(other))
        localize(Tiny(), folder, out=tmp_path, **OPTIONS)
        check_finished(tmp_path, undisturbed)
    finally:
        for node in nodes:
            end(node)


# Ray


@pytest.fixture(scope="module")
def cluster():
    """A node with one processor. A machine that dies is noticed within a second, one that is only slow may live on."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quick = {"initial_delay_ms": 500, "period_ms": 300, "timeout_ms": 30_000, "failure_threshold": 3}
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    health = {f"health_check_{name}": value for name, value in quick.items()}
    config = health | {"worker_niceness": 0}  # else a busy machine starves the tasks
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": config})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def elsewhere(context):
    """Call a function in a process of its own: Ray ends a driver that loses its node, with exit code 1 and no word."""
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        yield pool.submit
        for process in multiprocessing.active_children():  # of a test that failed; the pool would wait for it
            process.kill()


def ray_processes() -> list[int]:
    """Those that compute our tasks."""
    return [pid for pid in descendants(os.getpid()) if command_line(pid).startswith(b"ray::compute")]


def at_rest() -> bool:
    """Whether none does; between two tasks they have another name."""
    return not any(ray_processes() or time.sleep(0.05) for _ in range(20))


@pytest.mark.parametrize("seed", seeds(1))
def test_a_ray_process_and_a_node_are_killed(folder, undisturbed, tmp_path, cluster, elsewhere, seed):
    rng = random.Random(f"ray {seed}")
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    moments = sorted(moment(rng, range(2, 9)) for _ in range(2))
    driver = elsewhere(drive, folder, tmp_path, 0.2, cluster.address)
    found, busy = [], []
    for (reached, later), what in zip(moments, rng.sample(["process", "node"], 2), strict=True):
        wait_for(lambda reached=reached: stage(tmp_path) >= reached)
        time.sleep(later)
        found.append(stage(tmp_path))
        if what == "process":
            wait_for(lambda: busy.extend(ray_processes()) or busy)  # between two tasks they have another name
            os.kill(rng.choice(busy), signal.SIGKILL)
        else:
            cluster.remove_node(node, allow_graceful=False)
        print(f"Ray {what} killed at {STAGES[found[-1]]}")
    summary = driver.result(300)
    assert found[1] < 11
    assert summary.pictures == PICTURES
    check_finished(tmp_path, undisturbed)
    assert elsewhere(drive, folder, tmp_path, 0.2, "nowhere:1").result(300) == summary  # nothing to do


@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(1))
def test_the_driver_of_a_ray_run_is_killed(folder, undisturbed, tmp_path, cluster, begin, seed):
    driver = begin(folder, tmp_path, "ray", RAY_ADDRESS=cluster.address)
    reached, later = moment(random.Random(f"driver {seed}"), range(1, 14))
    wait_for(lambda: stage(tmp_path) >= reached, driver)
    time.sleep(later)
    driver.kill()
    print(f"Ray driver killed at {STAGES[stage(tmp_path)]}")
    # Between two tasks their processes have another name.
    wait_for(at_rest)
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    check_finished(tmp_path, undisturbed)


def test_several_classes_of_a_picture(folder, tmp_path, ranks, cluster, elsewhere):
    options = several(folder)
    localize(Tiny(), folder, out=tmp_path / "whole", **options)
    assert len(rows_of(tmp_path / "whole")) > PICTURES
    for rank in ranks(folder, tmp_path / "ranks", both=options):
        rank.result(300)
    elsewhere(drive, folder, tmp_path / "ray", 0, cluster.address, given=options).result(300)
    for name in ("ranks", "ray"):
        check_finished(tmp_path / name, tmp_path / "whole")


def test_errors_of_tasks_are_raised(folder, tmp_path, cluster, elsewhere):
    def fail(pause: float, **options: object) -> None:
        elsewhere(drive, folder, tmp_path / str(pause), pause, cluster.address, retries=0, **options).result(300)

    for connected in (True, False):  # the tasks that are left are cancelled, or end with the connection
        with pytest.raises(RuntimeError, match="no good"):
            fail(-2, connected=connected)
        wait_for(at_rest)
    with pytest.raises(RuntimeError, match="Ray gave up shard 0, pictures 0 to 7: WorkerCrashedError") as caught:
        fail(-1, connected=True)
    assert caught.value.__notes__ == ["0 of 8 parts are done; the same call computes the rest"]


def test_a_plan_holds_in_every_working_directory(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    prepare(Tiny(), Pictures(Path(folder.name), ["000.png", "001.png"]), out=tmp_path, **PLAN)
    monkeypatch.chdir("/")
    assert [item.path for item in Plan.load(tmp_path).items(0)] == [folder / "000.png", folder / "001.png"]


def test_what_tasks_ask_for(folder, tmp_path):
    plan = prepare(Tiny(), folder, out=tmp_path, **PLAN | {"threads": 6})
    assert ray._needs(plan, [{"CPU": 8.0}, {"CPU": 64.0}]) == {"num_cpus": 6}
    assert ray._needs(plan, [{"CPU": 4.0}, {}]) == {"num_cpus": 4}  # more than any machine has would wait for ever
    assert ray._needs(plan, [{}]) == {"num_cpus": 6}  # machines come when they are asked for
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, device="cuda"))
    assert ray._needs(plan, [{"CPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}]) == {"num_cpus": 8, "num_gpus": 1}
    assert ray._needs(plan, [{"CPU": 2.0, "GPU": 4.0}]) == {"num_cpus": 1, "num_gpus": 1}
    assert ray._needs(plan, [{"CPU": 2.0}]) == {"num_cpus": 1, "num_gpus": 1}


def test_a_machine_that_does_not_share_the_folder_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "_PATIENCE", 0)
    plan = prepare(Tiny(), folder, out=tmp_path / "a", **PLAN)
    job = _Job(str(tmp_path / "a"), plan.digest, None, None, 1)
    with pytest.raises(FileNotFoundError, match=f"does not see {tmp_path}/b: all machines must share the run's folder"):
        compute([job._replace(folder=str(tmp_path / "b"))], 0)
    with pytest.raises(FileNotFoundError, match="sees another run in"):
        compute([job._replace(digest="0")], 0)
    with pytest.raises(FileNotFoundError, match="does not see nowhere"):
        compute([job._replace(visible="nowhere")], 0)


def test_without_a_cluster(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"there is no Ray cluster at {address}"):
        localize_together(Tiny(), folder, out=tmp_path, engine="ray", address=address, **OPTIONS)


def test_without_ray(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match='pip install "fastcam\\[ray\\]"'):
        localize_together(Tiny(), folder, out=tmp_path, engine="ray", **OPTIONS)


# Command line


def test_the_command_line_chooses_the_engine(folder, tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = ModelConfig("resnet18", 3, size=64)
    models.save_checkpoint(tmp_path / "net.safetensors", models.build("resnet18", 3), config)
    common = ("localize", folder, "--weights", tmp_path / "net.safetensors", "--device", "cpu", "--threads", 1, "--out")
    assert "--workers goes with --engine local, got ray" in refused(*common, "x", "--engine", "ray", "--workers", 2)
    assert "--address goes with --engine ray, got local" in refused(*common, "x", "--address", "auto")
    assert "nothing tells the rank" in refused(*common, "x", "--engine", "torchrun")
    assert run_command(*common, tmp_path / "local", "--shard-size", 40).exit_code == 3
    as_rank(monkeypatch, 0, 1)
    assert run_command(*common, tmp_path / "srun", "--engine", "torchrun").exit_code == 3
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun takes 3 for a crash
    result = run_command(*common, tmp_path / "torchrun", "--engine", "torchrun")
    assert (result.exit_code, result.stderr) == (0, "fastcam: 1 pictures failed (1 damaged); column `error` says why\n")
    assert rows_of(tmp_path / "torchrun") == rows_of(tmp_path / "srun") == rows_of(tmp_path / "local")
