"""Trains the audio VAE on log-mels, then the vocoder on true and reconstructed log-mels.

    python -m ops.train.train_audio --part vae --minutes 5
    python -m ops.train.train_audio --part vocoder --minutes 6

The vocoder's loss compares short-time spectra of six window lengths; the shortest (64 samples, 4 ms)
keeps the impacts sharp, which the synchrony of picture and sound is measured on. The distance of the
log-mels beside it hears what the spectra's floor hides: noise far below the sound, in silence.
"""

import argparse
import functools
import multiprocessing

import numpy as np
import torch

from . import models, scenes, sound, stage
from .muon import Muon

POOL = 2500
VAE_FRAMES = 201  # 51 latents, 2 s.
VOCODER_FRAMES = 81
WINDOWS = (64, 128, 256, 512, 1024, 2048)
MEL_WEIGHT = 0.1


def wave_of_seed(variant, seed):
    world = scenes.of(variant)
    return world.sound(world.draw_scene(seed, size=world.SIZES[0]))


def pool_of(variant, seed, count, feeders):
    """Waveforms [count, samples] and log-mels [count, 1, frames, 64] of whole training clips, drawn by the feeders if there are any."""
    rng, wave = np.random.default_rng((seed, 77)), functools.partial(wave_of_seed, variant)
    seeds = [int(rng.integers(scenes.of(variant).VALIDATION_SEED)) for _ in range(count)]
    if feeders:
        with multiprocessing.get_context("spawn").Pool(feeders) as pool:
            waves = pool.map(wave, seeds, chunksize=16)
    else:
        waves = [wave(s) for s in seeds]
    waves = torch.from_numpy(np.stack(waves))
    return waves, torch.cat([sound.log_mel(w) for w in waves.split(100)])


def mel_frames_of(world):
    """Frames of a whole clip that the audio VAE gives back."""
    return sound.mel_frames(sound.latents_of(world.FRAMES_MAX, world.FPS))


def crops(rng, waves, mels, frames, batch):
    """Random windows; a third start at the first sample of the clip."""
    rows, picked, at = [], [], []
    for _ in range(batch):
        i = int(rng.integers(len(mels)))
        t = 0 if rng.random() < 0.33 else int(rng.integers(0, mels.shape[2] - frames))
        rows.append(mels[i, :, t:t + frames])
        picked.append(i)
        at.append(t)
    return torch.stack(rows), picked, at


def encode_mean(vae, mel):
    return vae.encoder(mel)[:, : vae.config.latent_channels]


def vae_loss(vae, mel, noise):
    z = encode_mean(vae, mel)
    out = vae.decoder(z + noise * torch.randn_like(z) if noise else z)
    d = out.float()[:, :, : mel.shape[2]] - mel
    weight = 1 + 2 * (mel > -9).float()
    flux = d.diff(dim=2).abs().mean() * 0.5
    return (weight * d.abs()).mean() + 0.1 * (d * d).mean() + flux, d.abs().mean()


def spectra(wave):
    return [torch.stft(wave, n, n // 4, n, torch.hann_window(n, device=wave.device), return_complex=True).abs() for n in WINDOWS]


def vocoder_loss(out, wave):
    loss = 2.0 * (out - wave).abs().mean()
    for n, a, b in zip(WINDOWS, spectra(out), spectra(wave)):
        scale = n ** 0.5
        loss = loss + ((a + 0.003 * scale).log() - (b + 0.003 * scale).log()).abs().mean() + 2 * (a - b).abs().mean() / scale
    quiet = (sound.log_mel(out) - sound.log_mel(wave)).abs().mean()
    return loss / len(WINDOWS) + MEL_WEIGHT * quiet, quiet


@torch.no_grad()
def onset_errors(world, wave_of, count=40):
    """Median and 90th percentile of |onset - contact| and recall over validation clips, for a scene -> waveform."""
    errors, missed = [], 0
    for i in range(count):
        scene = world.draw_scene(world.VALIDATION_SEED + 7000 + i, size=world.SIZES[0])
        found = sound.onsets(wave_of(scene))
        for t, v in world.impacts_of(scene):
            if v < 1.0 or t > world.FRAMES_MAX / world.FPS - 0.11:
                continue
            near = min((abs(t - f) for f in found), default=9.0)
            errors.append(near) if near < 0.2 else None
            missed += near >= 0.2
    e = np.array(errors + [9.0])
    return float(np.median(e)), float(np.quantile(e, 0.9)), len(errors) / (len(errors) + missed)


def vae_steps(args, clock, log):
    vae = models.audio_vae(args.variant).to(args.device)
    state = stage.load("audio_vae") if args.resume else None
    if state:
        vae.load_state_dict(state["vae"])
    waves, mels = pool_of(args.variant, args.seed, args.pool, args.feeders)
    clock.start = stage.time.monotonic() if args.pool else clock.start
    rng, optimiser, step, mean = np.random.default_rng(args.seed), Muon(vae.named_parameters(), lr=0.015), 0, None
    while not clock.over():
        mel = crops(rng, waves, mels, VAE_FRAMES, args.batch)[0].to(args.device)
        with stage.autocast(args.device):
            loss, l1 = vae_loss(vae, mel, 0.05 if clock.progress() > 0.7 else 0.0)
        loss.backward()
        optimiser.step(stage.rate(step, clock.progress()))
        step, mean = step + 1, l1.item() if mean is None else 0.97 * mean + 0.03 * l1.item()
        if step % 50 == 0 or step == 5:
            log.write(part="vae", step=step, mel_l1=mean, minutes=clock.elapsed() / 60, samples_per_s=step * args.batch / clock.elapsed())
    stage.save("audio_vae", vae=vae.state_dict(), steps=step + (state["steps"] if state else 0))


def vocoder_steps(args, clock, log):
    vae = models.audio_vae(args.variant).to(args.device)
    vae.load_state_dict(stage.load("audio_vae")["vae"])
    net = models.vocoder(args.variant).to(args.device)
    state = stage.load("vocoder") if args.resume else None
    total = state["steps"] if state else 0
    if state:
        net.load_state_dict(state["vocoder"])
    waves, mels = pool_of(args.variant, args.seed + 1, args.pool, args.feeders)
    whole = mel_frames_of(scenes.of(args.variant))
    with torch.no_grad(), stage.autocast(args.device):
        rebuilt = torch.cat([vae.decoder(encode_mean(vae, m[:, :, :whole].to(args.device))).float().cpu() for m in mels.split(25)])
    clock.start = stage.time.monotonic()
    rng, optimiser, step, mean, saved = np.random.default_rng((args.seed, total)), Muon(net.named_parameters(), lr=args.lr), 0, None, 0.0
    while not clock.over():
        source = rebuilt if rng.random() < clock.progress() * 1.6 else mels[:, :, :whole]
        mel, picked, at = crops(rng, waves, source, VOCODER_FRAMES, args.batch)
        out = net(mel.to(args.device))[:, 0]
        wave = torch.stack([waves[i, t * 160: (t + VOCODER_FRAMES) * 160] for i, t in zip(picked, at)]).to(args.device)
        inner = slice(160 * 5, -160 * 5) if rng.random() < 0.7 else slice(None)
        loss, quiet = vocoder_loss(out[:, inner], wave[:, inner])
        loss.backward()
        optimiser.step(stage.rate(step, clock.progress()))
        pair = np.array([loss.item(), quiet.item()])
        step, mean = step + 1, pair if mean is None else 0.97 * mean + 0.03 * pair
        if step % 50 == 0 or step == 5:
            log.write(part="vocoder", step=total + step, loss=mean[0], mel_l1=mean[1], minutes=clock.elapsed() / 60, samples_per_s=step * args.batch / clock.elapsed())
        if clock.elapsed() - saved > 120 or clock.over():
            saved = clock.elapsed()
            stage.save("vocoder", vocoder=net.state_dict(), steps=total + step)
    report(scenes.of(args.variant), vae.cpu(), net.cpu(), log)


@torch.no_grad()
def report(world, vae, net, log):
    def through(scene):
        mel = sound.log_mel(torch.from_numpy(world.sound(scene))[None])[:, :, :mel_frames_of(world)]
        return net(vae.decoder(encode_mean(vae, mel)))[0, 0].numpy()

    for name, f in (("oracle", world.sound), ("codec", through)):
        median, p90, recall = onset_errors(world, f)
        log.write(onsets=name, median_s=median, p90_s=p90, recall=recall)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--part", choices=["vae", "vocoder"], required=True)
    args.add_argument("--minutes", type=float, required=True)
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--pool", type=int, default=POOL)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--resume", action="store_true")
    args.add_argument("--lr", type=float, default=0.01, help="of the vocoder")
    stage.add_device(args)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    steps = vae_steps if args.part == "vae" else vocoder_steps
    steps(args, stage.Clock(args.minutes), stage.Log("audio"))


if __name__ == "__main__":
    main()
