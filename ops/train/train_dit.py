"""Trains transformer, connectors and text encoder together on cached latents.

    python -m ops.train.train_dit --minutes 80 --resume

Rectified flow: x_t = (1 - s) x0 + s noise, the target is noise - x0. One size and length a batch. A tenth of the captions is dropped, a tenth of the batches keeps its first frame (image to video),
three tenths of the samples have different sigmas for picture and sound, so that each learns to follow the other. Tokens with objects or sound weigh more.
New shards of runs/cache/ join while it runs.
--processes 2 starts that many single-thread workers which average their gradients every step: on a shared machine
this loses far less than two threads that wait for each other in every operation.
"""

import argparse
import concurrent.futures
import datetime
import math
import os
import random

import diffusers.models.transformers.transformer_ltx2 as ltx2
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import encode, scenes, sound, stage, tokenizer
from .denoise import Denoiser
from .muon import Muon

# Share of the latent frames of a clip -> of batches while words are learnt and after that, and clips beside one of full length.
# Short clips are cheap and teach what the caption says; an image teaches shapes and colours eight times as fast as a clip.
# How a body moves shows in whole clips alone: on the moon it lands after two seconds.
LENGTHS = {1.0: (0.2, 0.75, 1), 0.5: (0.2, 0.15, 2), 0.25: (0.25, 0.05, 4), 0.0: (0.35, 0.05, 8)}
SIZE_SHARES = (0.35, 0.15, 0.5)  # Portrait, which every film is unless asked otherwise, is the hardest of the three.
# How much more often than by chance: the rarer gravity, and bodies that differ, of which one must not bounce like the other.
MOON, UNLIKE = 1.85, 2.0
OBJECT_WEIGHT, SOUND_WEIGHT = 5.0, 2.0
CAPTION_DROPPED, FIRST_FRAME, TWO_SIGMAS = 0.1, 0.1, 0.3
STATE = "dit"


PARTS = ("video", "audio", "seen", "loud")


class Shards:
    """All shards read so far, joined by size, where the model is; `refresh` takes new ones in."""

    def __init__(self, statistics, device):
        self.by_size, self.read, self.clips, self.device = {}, set(), 0, device
        self.statistics = {name: part.to(device) for name, part in statistics.items()}

    def refresh(self):
        found = {}
        for path in sorted(encode.CACHE.glob("*.pt")):
            if path.name in self.read:
                continue
            self.read.add(path.name)
            shard = torch.load(path, weights_only=False)
            shard |= {name: shard[name].to(self.device) for name in PARTS}
            for name in ("video", "audio"):
                shard[name] = ((shard[name].float() - self.statistics[f"{name}_mean"]) / self.statistics[f"{name}_std"]).half()
            often = np.array([how_often(scene) for scene in shard["scenes"]])
            shard |= {"often": often / often.sum(), "easy": np.full(len(often), bool(shard["objects"]))}
            found.setdefault(tuple(shard["scenes"][0]["size"]), []).append(shard)
            self.clips += len(often)
        for size, new in found.items():
            rows = [self.by_size[size], *new] if size in self.by_size else new
            joined = {name: torch.cat([row[name] for row in rows]) for name in PARTS}
            joined |= {name: np.concatenate([row[name] for row in rows]) for name in ("often", "easy")}
            # In one move, because a thread may be drawing from the old ones.
            self.by_size[size] = joined | {"scenes": [scene for row in rows for scene in row["scenes"]]}

    def batch(self, rng, size, count, single_share):
        clips = self.by_size[size]
        weights = clips["often"] * np.where(clips["easy"], max(single_share, 0.01), 1.0)
        picked = rng.choice(len(weights), count, p=weights / weights.sum())
        rows = sent(torch.from_numpy(picked), self.device)
        video, audio, seen, loud = (clips[name].index_select(0, rows) for name in PARTS)
        return video.float(), audio.float(), seen, loud, [clips["scenes"][j] for j in picked]


def sent(part, device):
    """On the device, without a wait for what the device still has to do."""
    return part if device == "cpu" else part.pin_memory().to(device, non_blocking=True)


def how_often(scene):
    """Of a clip among those of its shard, relative to others."""
    kinds = {body.get("material") for body in scene.get("objects", ())}
    return (MOON if scene.get("gravity") == "moon" else 1.0) * (UNLIKE if len(kinds) > 1 else 1.0)


def make_batch(shards, rng, shared, tok, args, progress):
    world = scenes.of(args.variant)
    size = world.SIZES[int(shared.choice(3, p=SIZE_SHARES))]
    if size not in shards.by_size:
        size = world.SIZES[0]
    half = int(progress >= 0.5 or args.whole_clips)
    share = float(shared.choice(list(LENGTHS), p=[row[half] for row in LENGTHS.values()]))
    length = length_of(share, full_length(world))
    count = args.batch * LENGTHS[share][2]
    count = count if size == world.SIZES[0] else max(1, count * 5 // 8)
    video, audio, seen, loud, kept = shards.batch(rng, size, count, 1.0 if progress < 0.3 else 0.5)
    heard = sound.latents_of(4 * (length - 1) + 1, world.FPS)
    writer = random.Random(int(rng.integers(1 << 60)))
    texts = ["" if writer.random() < CAPTION_DROPPED else world.caption(s, writer) for s in kept]
    ids, mask = (sent(torch.from_numpy(t), args.device) for t in tokenizer.encode(tok, texts))
    grid = (length, size[1] // 16, size[0] // 16)
    first = shared.random() < FIRST_FRAME and length > 1
    parts = dict(x0=video[:, :length].flatten(1, 3), a0=audio[:, :heard], seen=seen[:, :length].flatten(1), loud=loud[:, :heard], ids=ids, mask=mask)
    return parts | dict(first=first, grid=grid, full=full_length(world), fps=float(world.FPS))


def full_length(world):
    return (world.FRAMES_MAX - 1) // 4 + 1


def length_of(share, full):
    """Latent frames: 1 for an image, and as many steps beyond it as the share says."""
    return 1 + round(share * (full - 1))


def draw_sigmas(n, mean, length, full, device):
    """A twelfth in 0.96..1, where only the caption can tell the background; 45 % high, where objects take place; the rest around `mean`.

    Fewer frames show less through the same noise: the logits fall by half the logarithm of the length.
    """
    kind, fewer = torch.rand(n, device=device), 0.5 * math.log(length / full)
    s = torch.sigmoid(torch.randn(n, device=device) + mean + fewer)
    s = torch.where(kind < 0.53, torch.sigmoid(0.9 * torch.randn(n, device=device) + 2.0 + fewer), s)
    s = torch.where(kind < 0.08, 0.96 + 0.04 * torch.rand(n, device=device), s)
    return s.clamp(0.002, 1.0)


def losses(denoiser, b, mean):
    x0, a0 = b["x0"], b["a0"]
    drawn = len(x0), mean, b["grid"][0], b["full"], x0.device
    s = draw_sigmas(*drawn)
    s_a = torch.where(torch.rand(len(x0), device=x0.device) < TWO_SIGMAS, draw_sigmas(*drawn), s)
    noise, audio_noise = torch.randn_like(x0), torch.randn_like(a0)
    x, a = torch.lerp(x0, noise, s[:, None, None]), torch.lerp(a0, audio_noise, s_a[:, None, None])
    t, weight = s, 1 + OBJECT_WEIGHT * b["seen"].float()
    if b["first"]:
        first = b["grid"][1] * b["grid"][2]
        x[:, :first] = x0[:, :first]
        t = s[:, None].repeat(1, x.shape[1])
        t[:, :first] = 0.0
        weight[:, :first] = 0.0
    context = denoiser.context(b["ids"], b["mask"])
    v, v_a = denoiser.velocity(x, a, context, b["grid"], b["fps"], t, s_a, s, s_a)
    loud = 1 + SOUND_WEIGHT * b["loud"].float()
    video = weighted(v.float() - (noise - x0), weight)
    return video, weighted(v_a.float() - (audio_noise - a0), loud)


def weighted(d, weight):
    return (d.square().mean(-1) * weight).sum() / weight.sum()


def plain_attention(query, key, value, **_):
    """softmax(q k / sqrt(d)) v in separate products: on a CPU its backward pass is faster than the fused one."""
    q, k, v = (z.transpose(1, 2) for z in (query, key, value))
    w = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1).to(v.dtype)
    return (w @ v).transpose(1, 2)


def compile_blocks(denoiser):
    """Compiled blocks for batches of full length, plain ones for the rest: every shape is compiled anew. Returns the switch."""
    torch._dynamo.config.cache_size_limit = 64
    switch = {"on": False}
    for block in denoiser.transformer.transformer_blocks:
        plain, fast = block.forward, torch.compile(block.forward, dynamic=False)
        block.forward = lambda *a, plain=plain, fast=fast, **k: (fast if switch["on"] else plain)(*a, **k)
    return switch


def drawn_ahead(draw, device):
    """On a GPU each call gives the batch that the last one ordered, drawn by a thread while the GPU was at work."""
    if device == "cpu":
        return draw
    pool, waiting = concurrent.futures.ThreadPoolExecutor(1), []

    def next_batch(progress):
        if not waiting:
            waiting.append(pool.submit(draw, progress))
        b = waiting.pop().result()
        waiting.append(pool.submit(draw, progress))
        return b

    return next_batch


def average_gradients(parameters, workers):
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= workers
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad = part.view_as(p)


def agreed(over, workers):
    """All workers stop at the same step, when the first one's clock is over."""
    if workers == 1:
        return over
    flag = torch.tensor([float(over)])
    dist.broadcast(flag, 0)
    return bool(flag.item())


def worker(rank, args):
    torch.set_num_threads(args.threads)
    if args.processes > 1:
        os.setsid()  # Schedulers that group by session then give each worker its own share.
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=rank, world_size=args.processes,
                                timeout=datetime.timedelta(minutes=20))
    torch.manual_seed(args.seed)  # The same start in every worker.
    shards = Shards(stage.load("statistics"), args.device)
    shards.refresh()
    denoiser, tok = Denoiser(args.variant).to(args.device), tokenizer.load()
    optimiser = Muon(denoiser.named_parameters(), lr=args.lr, adam_only=("embed_tokens", "registers", "scale_shift_table", "gate_logits"))
    ema = stage.Ema([denoiser])
    state, step = stage.load(STATE) if args.resume else None, 0
    if state:
        denoiser.load_state_dict(state["model"])
        if "optimiser" in state:  # A restored export has none.
            optimiser.load_state_dict(state["optimiser"])
        ema.shadow, step = [s.float().to(args.device) for s in state["ema"]], state["steps"]
    if args.device == "cpu":
        ltx2.dispatch_attention_fn = plain_attention
    if args.compile:
        switch = compile_blocks(denoiser)
    torch.manual_seed(args.seed + 1000 * step + rank)
    rng, log = np.random.default_rng((args.seed, step, rank)), stage.Log("dit")
    shared = np.random.default_rng((args.seed, step))  # What all workers draw alike: the size and length of a batch.
    clock, start, samples, means, saved = stage.Clock(args.minutes), step, 0, None, 0.0
    ahead = drawn_ahead(lambda progress: make_batch(shards, rng, shared, tok, args, progress), args.device)
    while not agreed(clock.over(), args.processes):
        progress = torch.tensor([clock.progress()])
        if args.processes > 1:
            dist.broadcast(progress, 0)
        progress = progress.item()
        b = ahead(progress)
        if args.compile:
            switch["on"] = b["grid"][0] == b["full"] and not b["first"]
        with stage.autocast(args.device):
            video, audio = losses(denoiser, b, args.mean)
        (video + args.audio_weight * audio).backward()
        if args.processes > 1:
            average_gradients(optimiser.parameters(), args.processes)
        norm = optimiser.step(stage.rate(step - start, progress, decay=args.decay))
        ema.update(step)
        step, samples = step + 1, samples + len(b["x0"]) * args.processes
        pair = torch.stack([video.detach(), audio.detach()])
        means = pair if means is None else torch.lerp(means, pair, 0.02)
        if step % 50 == 0:
            shards.refresh()
        if rank:
            continue
        if step % 50 == 0 or step - start in (5, 20):
            told = finite(means)
            log.write(step=step, video=told[0], audio=told[1], norm=float(norm), clips=shards.clips, device=args.device, minutes=clock.elapsed() / 60,
                      samples_per_s=samples / clock.elapsed())
        if clock.elapsed() - saved > args.save_every_s:
            saved = clock.elapsed()
            finite(means)
            save(denoiser, optimiser, ema, step, args.light)
    if rank == 0 and step > start:
        finite(means)
        save(denoiser, optimiser, ema, step, args.light)


def finite(means):
    """The running means as numbers. They wait for the device, so they are looked at seldom: before a log line or a state is written."""
    told = means.tolist()
    if not np.isfinite(told).all():
        raise SystemExit("the loss is not finite")
    return told


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--minutes", type=float, required=True)
    args.add_argument("--batch", type=int, default=8, help="clips of 64 x 64 and full length a worker and step")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--processes", type=int, help="on a CPU two, on another device one")
    args.add_argument("--port", type=int, default=29517)
    args.add_argument("--lr", type=float, default=0.02)
    args.add_argument("--decay", type=float, default=0.4, help="last share of the clock in which the rate falls")
    args.add_argument("--mean", type=float, default=1.0, help="mean of the logit of sigma for the lower part of the samples")
    args.add_argument("--audio-weight", type=float, default=1.0)
    args.add_argument("--compile", action="store_true")
    args.add_argument("--resume", action="store_true")
    args.add_argument("--light", action="store_true", help="keep no moments of the optimiser: a state below 60 MiB")
    args.add_argument("--whole-clips", action="store_true", help="words are learnt already: mostly whole clips from the first step on")
    args.add_argument("--save-every-s", type=float, default=120)
    stage.add_device(args)
    args = args.parse_args()
    args.processes = args.processes or (2 if args.device == "cpu" else 1)
    if args.processes > 1:
        mp.spawn(worker, (args,), nprocs=args.processes)
    else:
        worker(0, args)


def save(denoiser, optimiser, ema, step, light):
    """With `light` f32 weights and f16 averages, which can move between machines; a resumed stage warms its moments up again."""
    moments = {} if light else {"optimiser": optimiser.state_dict()}
    shadow = [s.half() for s in ema.shadow] if light else ema.shadow
    stage.save(STATE, model=denoiser.state_dict(), ema=shadow, steps=step, **moments)


if __name__ == "__main__":
    main()
