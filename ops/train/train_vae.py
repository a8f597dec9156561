"""Trains the video VAE: single images first, then clips of 17 frames in all three sizes.

    python -m ops.train.train_vae --phase images --minutes 4
    python -m ops.train.train_vae --phase clips --minutes 10

No sampling from the variance (the latent is the mean, plus noise of at most 0.05 near the end), and
the loss weighs the objects five times: they are a few per cent of the pixels.
"""

import argparse
import functools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import models, scenes, stage
from .muon import Muon

FRAMES = 17


def pixels(img):
    """uint8 [..., n, h, w, 3] to float [..., 3, n, h, w] in [-1, 1]."""
    img = torch.from_numpy(img) if isinstance(img, np.ndarray) else img
    return img.movedim(-1, -4).contiguous().float() / 127.5 - 1


def layouts_of(variant, sizes, frames, count, rng):
    """What is to be painted for a batch of crops in time of one of the sizes. Feeders make it, on CPUs."""
    world, drawn = scenes.of(variant), []
    size = sizes[int(rng.integers(len(sizes)))]
    for _ in range(count):
        scene = world.training_scene(rng, size)
        # Most motion is in the first two seconds.
        first = rng.integers(0, world.FRAMES_MAX - frames + 1) * (1.0 if rng.random() < 0.5 else 0.4)
        drawn.append(world.layout(scene, (int(first) + np.arange(frames)) / world.FPS))
    return (drawn,)


def painted(world, layouts, device):
    """Pictures [B, 3, n, h, w] in [-1, 1] and masks of the objects [B, 1, n, h, w]."""
    img, mask = world.paint(layouts, device)
    return pixels(img), mask.float().unsqueeze(1)


def loss_of(out, x, mask):
    w = 1 + 4 * mask
    d = out - x
    loss = (w * d.abs()).mean() + 0.5 * (w * d * d).mean()
    loss = loss + 0.25 * (d.diff(dim=3).abs().mean() + d.diff(dim=4).abs().mean())
    return loss + (0.25 * d.diff(dim=2).abs().mean() if d.shape[2] > 1 else 0.0)


def encode_mean(vae, x):
    return vae.encoder(x)[:, : vae.config.latent_channels]


def forward(vae, x, noise):
    z = encode_mean(vae, x)
    return vae.decoder(z + noise * torch.randn_like(z) if noise else z)


@torch.no_grad()
def psnr(vae, world, size, frames, count, sheet=None):
    """Mean PSNR of validation clips, in dB, on the 0..1 scale after clamping."""
    values, rows = [], []
    for i in range(count):
        scene = world.draw_scene(world.VALIDATION_SEED + 5000 + i, size=size)
        x = painted(world, [world.layout(scene, np.arange(frames) / world.FPS)], next(vae.parameters()).device)[0]
        y = forward(vae, x, 0.0).clamp(-1, 1)
        values.append(-10 * torch.log10((((x - y) / 2) ** 2).mean()).item())
        picked = [j for j in range(0, frames, max(1, frames // 8))][:8]
        for v in (x, y):
            rows.append(torch.cat([v[0, :, j] for j in picked], 2))
    if sheet:
        img = ((torch.cat(rows, 1).permute(1, 2, 0) + 1) * 127.5).round().byte().cpu().numpy()
        Image.fromarray(img).save(stage.RUNS / sheet)
    return float(np.mean(values))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--phase", choices=["images", "clips"], required=True)
    args.add_argument("--minutes", type=float, required=True)
    args.add_argument("--batch", type=int)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--checked", type=int, default=8, help="validation clips of each size that the PSNR at the end is of")
    args.add_argument("--resume", action="store_true", help="start from runs/vae.pt (the clips phase always does)")
    stage.add_device(args)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, world = args.phase == "images", scenes.of(args.variant)
    vae = models.video_vae(args.variant).to(args.device)
    state = stage.load("vae") if args.resume or not images else None
    if state:
        vae.load_state_dict(state["vae"])
    total = state["steps"] if state else 0
    frames, batch = (1, args.batch or 32) if images else (FRAMES, args.batch or 4)
    optimiser = Muon(vae.named_parameters(), lr=0.02 if images else 0.015)
    sizes = world.SIZES[:1] if images else [s for s, n in zip(world.SIZES, (3, 1, 1)) for _ in range(n)]
    drawn = stage.batches(functools.partial(layouts_of, args.variant, sizes, frames, batch), (args.seed, total), args)
    clock, log, step, mean, saved = stage.Clock(args.minutes), stage.Log("vae"), 0, None, 0.0
    while not clock.over():
        x, mask = painted(world, next(drawn)[0], args.device)
        noise = 0.05 if clock.progress() > 0.7 else 0.0
        with stage.autocast(args.device):
            out = forward(vae, x, noise)
        loss = loss_of(out.float(), x, mask)
        loss.backward()
        optimiser.step(stage.rate(step, clock.progress()))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        step += 1
        if step % 50 == 0 or step in (5, 20):
            log.write(phase=args.phase, step=total + step, loss=mean, minutes=clock.elapsed() / 60,
                      samples_per_s=step * batch / clock.elapsed())
        if clock.elapsed() - saved > 120:
            saved = clock.elapsed()
            stage.save("vae", vae=vae.state_dict(), steps=total + step)
    stage.save("vae", vae=vae.state_dict(), steps=total + step)
    for size in world.SIZES if not images else world.SIZES[:1]:
        value = psnr(vae, world, size, 1 if images else world.FRAMES_MAX, args.checked, sheet=f"vae_{args.phase}_{size[0]}x{size[1]}.png")
        log.write(phase=args.phase, step=total + step, size=list(size), psnr=value)


if __name__ == "__main__":
    main()
