"""A Slurm of one node on loopback: needs neither munge nor a database, nor any file outside its own folder."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# jobs that take more memory than they asked for are ended
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
# the node has what is said below, whatever the machine has
SlurmdParameters=config_overrides
# finished jobs stay in the list, so that a test can count them
MinJobAge=86400
NodeName={host} NodeAddr=127.0.0.1 CPUs=3 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


def missing() -> list[str]:
    """Return Slurm's programs that are not installed."""
    return [program for program in PROGRAMS if not find(program)]


def find(program: str) -> str | None:
    """Return where a program is; daemons lie where only root looks."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Run the controller and the node, and give the environment in which jobs can be sent to them."""
    controller_port, node_port = _free_ports()
    configuration = folder / "slurm.conf"
    for part in ("state", "spool", "bin"):
        (folder / part).mkdir(parents=True)
    names = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder}
    configuration.write_text(CONFIGURATION.format(**names, controller_port=controller_port, node_port=node_port))
    environment = {"SLURM_CONF": str(configuration), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    _wrap_srun(folder / "bin" / "srun", configuration)
    daemons = [
        subprocess.Popen([find(program), "-D", "-f", str(configuration)], stderr=subprocess.DEVNULL)
        for program in ("slurmctld", "slurmd")
    ]
    try:
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=os.environ | environment, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def _wrap_srun(path: Path, configuration: Path) -> None:
    """Let `srun` know where its configuration is: the executor takes SLURM_CONF out of the environment of its steps."""
    path.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {find("srun")} "$@"\n')
    path.chmod(0o755)


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    for _ in range(60):
        command = ["sinfo", "--noheader", "--format", "%T"]
        state = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        if state.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
    raise RuntimeError(f"Slurm did not start: {state.stdout}{state.stderr}\n{logs[-3000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
