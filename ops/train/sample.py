"""Films from the model in training, measured on evaluation captions, with a PNG sheet to look at.

    python -m ops.train.sample --count 24 --steps 12 --shift 3 --guidance 2.5
    python -m ops.train.sample --codec --count 24        the codecs alone
"""

import argparse

import numpy as np
import torch
from PIL import Image

from . import denoise, eval_list, measure, models, scenes, sound, stage, tokenizer, train_audio, train_vae


def parts(variant, use_ema=True):
    """Denoiser and codecs from the states of all stages, ready to decode normalised latents."""
    vae, audio, vocoder = models.video_vae(variant), models.audio_vae(variant), models.vocoder(variant)
    vae.load_state_dict(stage.load("vae")["vae"])
    audio.load_state_dict(stage.load("audio_vae")["vae"])
    vocoder.load_state_dict(stage.load("vocoder")["vocoder"])
    s = stage.load("statistics")
    for part, kind in ((vae, "video"), (audio, "audio")):
        part.latents_mean.copy_(s[f"{kind}_mean"])
        part.latents_std.copy_(s[f"{kind}_std"])
    denoiser, state = denoise.Denoiser(variant), stage.load("dit")
    steps = 0
    if state:
        denoiser.load_state_dict(state["model"])
        steps = state["steps"]
        if use_ema:
            with torch.no_grad():
                for p, e in zip(denoiser.parameters(), state["ema"]):
                    p.copy_(e)
    return denoiser.eval(), vae.eval(), audio.eval(), vocoder.eval(), steps


@torch.no_grad()
def films(parts, world, rows, sigmas, guidance, audio_guidance, frames, captions=None, seed=0, batch=8):
    """Frames [n, h, w, 3] uint8 and waveform of every scene in `rows`, batched by size."""
    denoiser, vae, audio, vocoder = parts[:4]
    tok, out = tokenizer.load(), [None] * len(rows)
    negative = tuple(torch.from_numpy(t) for t in tokenizer.encode(tok, [""]))
    captions = captions or [r["caption"] for r in rows]
    length = sound.latents_of(frames, world.FPS)
    for size in {tuple(r["size"]) for r in rows}:
        mine = [i for i, r in enumerate(rows) if tuple(r["size"]) == size]
        grid = denoise.grid_of(size, frames)
        for chunk in (mine[i:i + batch] for i in range(0, len(mine), batch)):
            noise, audio_noise = (torch.stack([torch.randn(n, c, generator=torch.Generator().manual_seed(seed + i * 2 + k)) for i in chunk])
                                  for k, (n, c) in enumerate(((grid[0] * grid[1] * grid[2], vae.config.latent_channels),
                                                              (length, audio.config.latent_channels * 16))))
            positive = tuple(torch.from_numpy(t) for t in tokenizer.encode(tok, [captions[i] for i in chunk]))
            with torch.autocast("cpu", torch.bfloat16):
                x, a = denoise.sample(denoiser, positive, negative, noise, audio_noise, grid, float(world.FPS), sigmas, guidance, audio_guidance)
                video = denoise.decode_video(vae, x.float(), grid).float()
            waves = denoise.decode_audio(audio, vocoder, a.float())
            for i, v, w in zip(chunk, video, waves):
                out[i] = (((v.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy(), w.numpy())
    return out


@torch.no_grad()
def through_codecs(parts, world, rows):
    _, vae, audio, vocoder = parts[:4]
    whole = train_audio.mel_frames_of(world)
    for r in rows:
        with torch.autocast("cpu", torch.bfloat16):
            y = train_vae.forward(vae, train_vae.pixels(world.render(r))[None], 0.0).float().clamp(-1, 1)[0]
        mel = sound.log_mel(torch.from_numpy(world.sound(r))[None])[:, :, :whole]
        wave = vocoder(audio.decoder(train_audio.encode_mean(audio, mel)))[0, 0]
        yield ((y.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy(), wave.numpy()


def sheet(films, path, columns=12):
    rows = []
    for frames, _ in films:
        picked = np.linspace(0, len(frames) - 1, columns).astype(int)
        strip = np.concatenate([frames[i] for i in picked], 1)
        rows.append(np.pad(strip, ((0, 2), (0, 0), (0, 0))))
    widest = max(r.shape[1] for r in rows)
    rows = [np.pad(r, ((0, 0), (0, widest - r.shape[1]), (0, 0))) for r in rows]
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--count", type=int, default=24)
    args.add_argument("--first", type=int, default=0)
    args.add_argument("--steps", type=int, default=12)
    args.add_argument("--shift", type=float, default=3.0)
    args.add_argument("--guidance", type=float, default=2.5)
    args.add_argument("--audio-guidance", type=float)
    args.add_argument("--frames", type=int, help="of a film; the longest that the world knows")
    args.add_argument("--prompts", nargs="*", help="free prompts in place of the list, not measured")
    args.add_argument("--square", action="store_true", help="only the square scenes")
    args.add_argument("--raw", action="store_true", help="the weights of the last step, not their average")
    args.add_argument("--baseline", action="store_true", help="also with shuffled captions and sounds")
    args.add_argument("--codec", action="store_true")
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--sheet", default="samples.png")
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    p, world = parts(args.variant, not args.raw), scenes.of(args.variant)
    square = list(world.SIZES[0])
    rows = [r for r in eval_list.listed(args.variant) if not args.square or r["size"] == square][args.first:args.first + args.count]
    if args.prompts:
        rows = [{"caption": c, "size": square} for c in args.prompts]
    sigmas = denoise.shifted(args.steps, args.shift)
    made = list(through_codecs(p, world, rows)) if args.codec else films(
        p, world, rows, sigmas, args.guidance, args.audio_guidance or args.guidance, args.frames or world.FRAMES_MAX)
    sheet(made, stage.RUNS / args.sheet)
    if not args.prompts and args.variant == "t0":  # `dailies eval builtin --oracle` measures the others.
        note = dict(step=p[4], codec=args.codec, count_of_clips=len(rows), first=args.first, steps=args.steps, shift=args.shift,
                    guidance=args.guidance, audio_guidance=args.audio_guidance or args.guidance, raw=args.raw)
        measured(made, rows, note, False)
        if args.baseline:
            measured(made, rows, note, True)


def measured(made, rows, note, baseline):
    """Logs the marks; as the baseline, each film counts for another caption and is heard with another film's sound."""
    n = len(made)
    judged = [measure.marks(made[i][0], made[(i + 7 * baseline) % n][1], rows[(i + 5 * baseline) % n]) for i in range(n)]
    result = {k: float(v) for k, v in measure.summary(judged).items()}
    stage.Log("samples").write(**note, baseline=baseline, **result)


if __name__ == "__main__":
    main()
