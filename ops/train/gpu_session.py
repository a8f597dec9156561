"""All stages of a variant on one GPU, within a budget of minutes, in commands that may be cut anywhere.

    python -m ops.train.gpu_session --budget 9                   T1 from nothing, or on from where the last command ended
    python -m ops.train.gpu_session --variant t0 --budget 4      T0 from the weights that ship

Every stage gets its share of what is left of the budget; what a stage has done is in runs/session.json, so the next
command goes on with the next stage, and a plan that has been done starts its last stage again with --resume. Stages print
their rate (JSON lines with samples_per_s) from their first steps on, and lower their learning rate by the clock.
States are below 60 MiB each (`runs/*.pt`); the cache of latents is not to be moved, it is encoded anew in a minute.
"""

import argparse
import json
import subprocess
import sys
import time

from . import stage

STATE_BYTES_MAX = 60 << 20
# Stage, command, share of the budget. Stages of one group run at the same time: they leave the GPU room.
PLANS = {
    "t1": [
        [("tokenizer", ["tokenizer"], 0.0), ("pictures", ["train_vae", "--phase", "images", "--batch", "128"], 0.09),
         ("mel", ["train_audio", "--part", "vae", "--pool", "3000", "--batch", "64"], 0.09)],
        [("clips", ["train_vae", "--phase", "clips", "--batch", "24"], 0.23),
         ("vocoder", ["train_audio", "--part", "vocoder", "--pool", "3000", "--batch", "32"], 0.23)],
        [("easy", ["encode", "--shards", "20", "--objects", "1"], 0.04)],
        [("all", ["encode", "--shards", "120"], 0.12)],
        [("dit", ["train_dit", "--batch", "96", "--light"], 0.5)],
    ],
    "t0": [
        [("restore", ["restore"], 0.0)],
        [("easy", ["encode", "--shards", "10", "--objects", "1", "--batch", "64"], 0.06)],
        [("all", ["encode", "--shards", "90", "--batch", "64"], 0.2)],
        [("dit", ["train_dit", "--batch", "256", "--light", "--resume"], 0.6), ("vocoder", ["train_audio", "--part", "vocoder", "--resume", "--lr", "0.006", "--batch", "32"], 0.35)],
    ],
}
# What each command takes besides its variant.
DEVICES = {"train_vae": True, "train_audio": True, "encode": True, "train_dit": True, "tokenizer": False, "restore": False}


class Session:
    """What has been done, kept in runs/session.json."""

    def __init__(self, variant):
        self.path, self.variant = stage.RUNS / "session.json", variant
        told = json.loads(self.path.read_text()) if self.path.exists() else {}
        if told.get("variant", variant) != variant:
            raise SystemExit(f"{stage.RUNS} holds variant {told['variant']}: name another folder in DAILIES_TRAIN_RUNS")
        self.done = told.get("done", [])

    def mark(self, names):
        self.done += [n for n in names if n not in self.done]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({"variant": self.variant, "done": self.done}))

    def ahead(self):
        """Groups that are still to do; of a plan that is done, the last group again, resumed."""
        groups = [[s for s in group if s[0] not in self.done] for group in PLANS[self.variant]]
        groups = [g for g in groups if g]
        if groups:
            return groups
        return [[(name, command + ["--resume"] * ("--resume" not in command), share) for name, command, share in PLANS[self.variant][-1]]]


def command_of(session, args, command, minutes):
    name, options = command[0], list(command[1:])
    if name != "restore":
        options += ["--variant", session.variant]
    if DEVICES[name]:
        options += ["--device", args.device, "--minutes", f"{minutes:.2f}"]
        options += ["--processes", str(args.feeders)] if name == "encode" else [] if name == "train_dit" else ["--feeders", str(args.feeders // 2)]
    return [sys.executable, "-W", "ignore", "-u", "-m", f"ops.train.{name}", *options]


def run_group(session, args, group, minutes):
    running = [(name, subprocess.Popen(command_of(session, args, command, minutes))) for name, command, _ in group]
    failed = [name for name, process in running if process.wait() != 0]
    if failed:
        raise SystemExit(f"stage {', '.join(failed)} failed; what came before is kept, run the command again")
    session.mark([name for name, _ in running])


def report():
    for path in sorted(stage.RUNS.glob("*.pt")):
        size = path.stat().st_size
        print(f"{path.name}: {size / 2**20:.1f} MiB" + (", too large to move" if size > STATE_BYTES_MAX else ""))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t1", choices=PLANS)
    args.add_argument("--budget", type=float, required=True, help="minutes of wall time for this command")
    args.add_argument("--device", default="cuda")
    args.add_argument("--feeders", type=int, default=12)
    args.add_argument("--plan", action="store_true", help="print what would run, with its minutes, and run nothing")
    args = args.parse_args()
    started, session, spent = time.monotonic(), Session(args.variant), 0.0
    groups = session.ahead()
    for i, group in enumerate(groups):
        # Starting processes and drawing pools costs time beside the stages' own clocks: 20 s are kept for each group.
        left = args.budget - (len(groups) - i) / 3 - (time.monotonic() - started) / 60 - spent
        shares = [max(share for _, _, share in g) for g in groups[i:]]
        minutes = left * shares[0] / (sum(shares) or 1)
        if shares[0] and minutes < 0.1:
            print(f"{left:.1f} minutes are left, too few for {group[0][0]}: run the command again")
            break
        print(f"== {', '.join(n for n, _, _ in group)}: {minutes:.2f} of {left:.2f} minutes", flush=True)
        if args.plan:
            spent += minutes
            print("\n".join(" ".join(command_of(session, args, command, minutes)[4:]) for _, command, _ in group))
            continue
        run_group(session, args, group, minutes)
    report()


if __name__ == "__main__":
    main()
