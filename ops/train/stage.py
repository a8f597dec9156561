"""What every training stage shares: the device, the clock, the log, the state file, the learning-rate shape."""

import json
import os
import pathlib
import time

import numpy as np
import torch

RUNS = pathlib.Path(os.environ.get("DAILIES_TRAIN_RUNS") or pathlib.Path(__file__).with_name("runs"))


def add_device(parser):
    """--device: where the modules live; --feeders: processes that draw the next batches meanwhile, 0 draws them in line."""
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--feeders", type=int, default=12 if has_gpu else 0)


def autocast(device):
    return torch.autocast(torch.device(device).type, torch.bfloat16)


class _Drawn(torch.utils.data.IterableDataset):
    def __init__(self, draw, seed):
        self.draw, self.seed = draw, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng((*self.seed, worker.id if worker else 0))
        while True:
            yield self.draw(rng)


def _as_drawn(batch):
    return batch


def batches(draw, seed, args):
    """Endless batches of `draw(rng)`, from the feeders if there are any, on the device. `seed` is a tuple of numbers."""
    ahead = dict(prefetch_factor=4, multiprocessing_context="spawn") if args.feeders else {}
    loader = torch.utils.data.DataLoader(_Drawn(draw, seed), batch_size=None, num_workers=args.feeders,
                                         pin_memory=args.device != "cpu", collate_fn=_as_drawn, **ahead)
    for batch in loader:
        yield tuple(part.to(args.device, non_blocking=True) if torch.is_tensor(part) else part for part in batch)


class Clock:
    """Progress 0..1 through the wall-clock limit of a stage; the stage ends when `over` says so."""

    def __init__(self, minutes):
        self.start, self.limit = time.monotonic(), minutes * 60.0

    def elapsed(self):
        return time.monotonic() - self.start

    def progress(self):
        return min(1.0, self.elapsed() / self.limit)

    def over(self):
        return self.elapsed() >= self.limit


def rate(step, progress, warmup=50, decay=0.4, floor=0.02):
    """Warm-up over steps, then flat, then linear to the floor over the last part of the clock."""
    return min(1.0, (step + 1) / warmup) * max(floor, min(1.0, (1.0 - progress) / decay))


class Log:
    def __init__(self, stage):
        RUNS.mkdir(exist_ok=True)
        self.path = RUNS / f"{stage}.jsonl"

    def write(self, **row):
        row = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        line = json.dumps(row)
        print(line, flush=True)
        with self.path.open("a") as f:
            f.write(line + "\n")


def save(name, **state):
    """Writes runs/<name>.pt in one move, so that a stop in the middle leaves the old file."""
    RUNS.mkdir(exist_ok=True)
    temporary = RUNS / f"{name}.tmp"
    torch.save(state, temporary)
    temporary.replace(RUNS / f"{name}.pt")


def load(name):
    path = RUNS / f"{name}.pt"
    return torch.load(path, map_location="cpu", weights_only=False) if path.exists() else None


class Ema:
    def __init__(self, modules, decay=0.998):
        self.modules, self.decay = modules, decay
        self.shadow = [p.detach().clone() for m in modules for p in m.parameters()]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p for m in self.modules for p in m.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self):
        """Exchanges the weights of the modules with the averages. Call again to go back."""
        for s, p in zip(self.shadow, (p for m in self.modules for p in m.parameters())):
            kept = p.detach().clone()
            p.copy_(s)
            s.copy_(kept)
