"""Slurm doing what `cargo xtask bench farm` does: no-op jobs on this machine, by slurmctld, slurmd and munged.

usage: noop_slurm.py ADDRESS JOBS    prints one JSON object a line: what, value; ADDRESS is not used

Must be root. The daemons live in a temporary folder, on ports of their own, and end with this script.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CALLERS = 8
CPUS = 64
LATENCIES = 20
WAIT_S = 30
NOTHING = "#!/bin/sh\n"

CONF = """\
ClusterName=bench
SlurmctldHost={host}
SlurmctldPort={ctld}
SlurmdPort={d}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=1000,default_queue_depth=1000
MaxJobCount=100000
MaxArraySize=50001
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=bench Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def tell(what, value):
    print(json.dumps({"what": what, "value": value}), flush=True)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.env = dict(os.environ, SLURM_CONF=str(folder / "slurm.conf"), PATH=os.environ["PATH"] + ":/usr/sbin")
        self.daemons = []

    def start(self):
        for part in ("state", "spool", "jobs"):
            (self.folder / part).mkdir()
        words = dict(host=socket.gethostname(), ctld=free_port(), d=free_port(), folder=self.folder, cpus=CPUS)
        (self.folder / "slurm.conf").write_text(CONF.format(**words))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = ["--key-file", key, "--pid-file", self.folder / "munge.pid", "--seed-file", self.folder / "munge.seed"]
        munge += ["--socket", self.folder / "munge.socket", "--log-file", self.folder / "munge.log"]
        self.daemon("munged", "--foreground", "--force", *munge)
        self.wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self.daemon("slurmctld", "-D", "-c")
        self.daemon("slurmd", "-D", "-N", words["host"])
        self.wait(lambda: "idle" in self.said("sinfo", "-h", "-o", "%T"), "slurmd")

    def daemon(self, *command):
        log = open(self.folder / f"{command[0]}.out", "w")
        self.daemons.append(
            subprocess.Popen([str(word) for word in command], env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        )

    def said(self, *command):
        answer = subprocess.run(command, env=self.env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return answer.stdout

    def wait(self, is_so, who):
        until = time.monotonic() + WAIT_S
        while not is_so():
            if time.monotonic() > until:
                logs = "\n".join(path.read_text()[-500:] for path in self.folder.glob("*.[lo][ou][gt]"))
                sys.exit(f"{who} does not answer in {WAIT_S} s; the logs say:\n{logs}")
            time.sleep(0.05)

    def submit(self, *options, script):
        command = ["sbatch", "--parsable", "-n1", "-o", "/dev/null", "-D", str(self.folder / "jobs"), *options]
        done = subprocess.run(command, env=self.env, input=script, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"sbatch failed: {done.stderr}")

    def drain(self):
        """Waits until every job has ended."""
        while self.said("squeue", "-h", "-o", "%i").strip():
            time.sleep(0.05)

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def single(cluster, jobs):
    left = iter(range(jobs))
    lock = threading.Lock()

    def caller():
        while True:
            with lock:
                if next(left, None) is None:
                    return
            cluster.submit("--hold", script=NOTHING)

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    began = time.monotonic()
    [one.start() for one in callers]
    [one.join() for one in callers]
    tell("single", jobs / (time.monotonic() - began))
    cluster.said("scancel", "--user", "root")
    cluster.drain()


def work(cluster, jobs):
    began = time.monotonic()
    cluster.submit("--array", f"0-{jobs - 1}", script=NOTHING)
    tell("batched", jobs / (time.monotonic() - began))
    cluster.drain()
    tell("work", jobs / (time.monotonic() - began))


def latency(cluster):
    told = cluster.folder / "told"
    os.mkfifo(told)
    took = []
    for _ in range(LATENCIES):
        began = time.monotonic()
        cluster.submit(script=f"#!/bin/sh\necho > {told}\n")
        with open(told) as pipe:
            pipe.read()
        took.append((time.monotonic() - began) * 1e3)
    took.sort()
    tell("p50", took[len(took) // 2])
    tell("p99", took[len(took) * 99 // 100])


def main():
    jobs = int(sys.argv[2])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dailies-slurm-"))
    cluster = Cluster(folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))
    try:
        cluster.start()
        latency(cluster)
        single(cluster, jobs // 10)
        work(cluster, jobs // 10)
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
