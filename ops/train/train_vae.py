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
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(img, -1, -4))).float() / 127.5 - 1


def random_scene(rng, size, frames):
    return scenes.draw_scene(int(rng.integers(scenes.VALIDATION_SEED)), count=int(rng.choice((1, 2))), size=size)


def batch_of(sizes, frames, count, rng):
    """Pictures [count, 3, frames, h, w] in [-1, 1] and masks of the objects, of one of the sizes."""
    size = sizes[int(rng.integers(len(sizes)))]
    shots, masks = [], []
    for _ in range(count):
        scene = random_scene(rng, size, frames)
        # Most motion is in the first two seconds.
        first = rng.integers(0, scenes.FRAMES_MAX - frames + 1) * (1.0 if rng.random() < 0.5 else 0.4)
        img, mask = scenes.render(scene, (int(first) + np.arange(frames)) / scenes.FPS, with_mask=True)
        shots.append(img)
        masks.append(mask)
    return pixels(np.stack(shots)), torch.from_numpy(np.stack(masks)).float().unsqueeze(1)


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
def psnr(vae, size=(64, 64), frames=65, count=8, sheet=None):
    """Mean PSNR of validation clips, in dB, on the 0..1 scale after clamping."""
    values, rows = [], []
    for i in range(count):
        scene = scenes.draw_scene(scenes.VALIDATION_SEED + 5000 + i, size=size)
        x = pixels(scenes.render(scene, np.arange(frames) / scenes.FPS))[None].to(next(vae.parameters()).device)
        y = forward(vae, x, 0.0).clamp(-1, 1)
        values.append(-10 * torch.log10((((x - y) / 2) ** 2).mean()).item())
        picked = [j for j in range(0, frames, max(1, frames // 8))][:8]
        for v in (x, y):
            rows.append(torch.cat([v[0, :, j] for j in picked], 2))
    if sheet:
        img = ((torch.cat(rows, 1).permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
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
    args.add_argument("--resume", action="store_true", help="start from runs/vae.pt (the clips phase always does)")
    stage.add_device(args)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images = args.phase == "images"
    vae = models.video_vae(args.variant).to(args.device)
    state = stage.load("vae") if args.resume or not images else None
    if state:
        vae.load_state_dict(state["vae"])
    total = state["steps"] if state else 0
    frames, batch = (1, args.batch or 32) if images else (FRAMES, args.batch or 4)
    optimiser = Muon(vae.named_parameters(), lr=0.02 if images else 0.015)
    sizes = [(64, 64)] if images else [s for s, n in zip(scenes.SIZES, (3, 1, 1)) for _ in range(n)]
    drawn = stage.batches(functools.partial(batch_of, sizes, frames, batch), (args.seed, total), args)
    clock, log, step, mean, saved = stage.Clock(args.minutes), stage.Log("vae"), 0, None, 0.0
    while not clock.over():
        x, mask = next(drawn)
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
    for size in scenes.SIZES if not images else scenes.SIZES[:1]:
        value = psnr(vae, size, 1 if images else 65, sheet=f"vae_{args.phase}_{size[0]}x{size[1]}.png")
        log.write(phase=args.phase, step=total + step, size=list(size), psnr=value)


if __name__ == "__main__":
    main()
