"""Five minutes on a CPU: every stage runs, stops and resumes in a scratch folder, and the losses fall.

    python -m ops.train.smoke
    python -m ops.train.smoke --variant t1 --device cuda --feeders 4
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Steps of T1 are ten times as long, so it gets smaller batches and more minutes: about eight in all on one core.
LONGER = {"t1": {"--minutes": 2.5, "--batch": 0.25, "--clips": 0.5}}
STAGES = [
    ("tokenizer", []),
    ("train_vae", ["--phase", "images", "--minutes", "0.4", "--batch", "16", "--checked", "2"]),
    ("train_vae", ["--phase", "clips", "--minutes", "0.2", "--batch", "2", "--checked", "1"]),
    ("train_audio", ["--part", "vae", "--minutes", "0.2", "--pool", "50", "--batch", "4"]),
    ("train_audio", ["--part", "vocoder", "--minutes", "0.2", "--pool", "50", "--batch", "4"]),
    ("encode", ["--shards", "5", "--objects", "1", "--clips", "16"]),
    ("train_dit", ["--minutes", "2.0", "--processes", "1", "--batch", "8"]),
    ("train_dit", ["--minutes", "0.5", "--processes", "1", "--batch", "8", "--resume"]),
]


def scaled(options, factors):
    """Options with their numbers times the factors; what counts things stays whole and at least 1."""
    out = list(options)
    for i, name in enumerate(options[:-1]):
        if name in factors:
            value = float(options[i + 1]) * factors[name]
            out[i + 1] = f"{value:.2f}" if name == "--minutes" else str(max(1, round(value)))
    return out


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--device", default="cpu")
    args.add_argument("--feeders", default="0")
    args = args.parse_args()
    where = ["--variant", args.variant, "--device", args.device, "--feeders", args.feeders]
    root = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        # Workers that a stage starts find the scratch folder too.
        told = {**os.environ, "DAILIES_TRAIN_RUNS": scratch}
        for name, options in STAGES:
            given = where if name != "tokenizer" else where[:2]
            options = scaled(options, LONGER.get(args.variant, {}))
            command = [sys.executable, "-W", "ignore", "-m", f"ops.train.{name}", *options, *given]
            subprocess.run(command, cwd=root, check=True, env=told)
        for log, key in (("vae", "loss"), ("dit", "video")):
            values = [r[key] for r in map(json.loads, (pathlib.Path(scratch) / f"{log}.jsonl").read_text().splitlines()) if key in r]
            print(log, values[0], "->", values[-1])
            if not values[-1] < 0.8 * values[0]:
                raise SystemExit(f"the loss of {log} did not fall below 0.8 of its start")


if __name__ == "__main__":
    main()
