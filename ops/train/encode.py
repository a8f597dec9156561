"""Encodes training clips to latents, in shards under runs/cache/ that the DiT stage reads as they appear.

    python -m ops.train.encode --shards 4 --objects 1
    python -m ops.train.encode --shards 12 --objects 0

A shard is 256 clips of one size: raw latent means in f16, weights of the tokens (objects, sound), and scenes.
The first shards also fix latents_mean and latents_std (runs/statistics.pt), once for ever.
Both encoders are causal, so a prefix of the latents is the encoding of the prefix of the clip.
"""

import argparse

import numpy as np
import torch
import torch.multiprocessing as mp

from . import models, scenes, sound, stage, train_audio, train_vae

SHARD, STATISTICS_SHARDS = 256, 5  # Five shards hold every size.
CACHE = stage.RUNS / "cache"
SIZE_CYCLE = [0, 1, 2, 0, 2]  # Two fifths square, two fifths portrait, a fifth landscape: a film is portrait unless asked otherwise.


def codecs(variant):
    vae, audio = models.video_vae(variant), models.audio_vae(variant)
    vae.load_state_dict(stage.load("vae")["vae"])
    audio.load_state_dict(stage.load("audio_vae")["vae"])
    return vae.eval(), audio.eval()


@torch.no_grad()
def encode_scenes(world, vae, audio, drawn, device):
    """Raw latents video [B, f, h, w, C], audio [B, L, 16 c], and the token masks of objects and of sound; f16 on the CPU."""
    frames, mask = world.paint([world.layout(scene, np.arange(scene["frames"]) / scene["fps"]) for scene in drawn], device)
    count = sound.latents_of(drawn[0]["frames"], drawn[0]["fps"])
    waves = torch.from_numpy(np.stack([world.sound(scene) for scene in drawn])).to(device)
    with stage.autocast(device):
        video = train_vae.encode_mean(vae, train_vae.pixels(frames))
        mel = sound.log_mel(waves)[:, :, : sound.mel_frames(count)]
        heard = train_audio.encode_mean(audio, mel)
    parts = (video.permute(0, 2, 3, 4, 1).half(), heard.transpose(1, 2).flatten(2).half(), object_tokens(mask), sound_tokens(mel[:, 0], count))
    return tuple(part.cpu() for part in parts)


def object_tokens(mask):
    """[B, n, h, w] of pixels -> [B, f, h / 16, w / 16] of tokens; the first latent frame is one picture frame."""
    grid = mask.unflatten(3, (-1, 16)).unflatten(2, (-1, 16)).amax(dim=(3, 5))
    return torch.cat([grid[:, :1], grid[:, 1:].unflatten(1, (-1, 4)).amax(2)], 1)


def sound_tokens(mel, count):
    loud = mel.amax(2) > -8.0
    return torch.cat([loud[:, :1], loud[:, 1:].unflatten(1, (-1, 4)).amax(2)], 1)[:, :count]


def make_shard(world, vae, audio, index, rng, args):
    size = world.SIZES[SIZE_CYCLE[index % len(SIZE_CYCLE)]]
    kept = [world.training_scene(rng, size, easy=args.objects == 1) for _ in range(args.clips)]
    rows = [encode_scenes(world, vae, audio, kept[i:i + args.batch], args.device) for i in range(0, len(kept), args.batch)]
    video, heard, seen, loud = (torch.cat(c) for c in zip(*rows))
    return {"video": video, "audio": heard, "seen": seen, "loud": loud, "scenes": kept, "objects": args.objects}


def write_statistics(shards):
    video = torch.cat([s["video"].float().flatten(0, -2) for s in shards])
    audio = torch.cat([s["audio"].float().flatten(0, -2) for s in shards])
    stage.save("statistics", video_mean=video.mean(0), video_std=video.std(0).clamp_min(1e-3),
               audio_mean=audio.mean(0), audio_std=audio.std(0).clamp_min(1e-3))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--shards", type=int, required=True)
    args.add_argument("--objects", type=int, default=0, help="1: easy scenes alone, 0: all")
    args.add_argument("--batch", type=int, help="clips that are painted and encoded at once: 1 on a CPU, else 16")
    args.add_argument("--minutes", type=float, default=1e9, help="begin no shard after this limit")
    args.add_argument("--clips", type=int, default=SHARD, help="clips of a shard")
    args.add_argument("--processes", type=int, default=2, help="single-thread workers: two threads of one process wait for each other")
    stage.add_device(args)
    args = args.parse_args()
    args.batch = args.batch or (1 if args.device == "cpu" else 16)
    CACHE.mkdir(parents=True, exist_ok=True)
    first = max((int(path.stem) + 1 for path in CACHE.glob("*.pt")), default=0)
    mp.spawn(worker, (args, range(first, first + args.shards)), nprocs=args.processes)
    if stage.load("statistics") is None:
        write_statistics([torch.load(path, weights_only=False) for path in sorted(CACHE.glob("*.pt"))[:STATISTICS_SHARDS]])


def worker(rank, args, indices):
    """Every `processes`-th shard, so that a shard is the same whoever makes it."""
    torch.set_num_threads(1)
    vae, audio = (part.to(args.device) for part in codecs(args.variant))
    world, clock, log = scenes.of(args.variant), stage.Clock(args.minutes), stage.Log("encode")
    for done, index in enumerate(indices[rank::args.processes], 1):
        if clock.over() and done > 1:
            break
        shard = make_shard(world, vae, audio, index, np.random.default_rng((4, index)), args)
        temporary = CACHE / f"{index:04}.writing"
        torch.save(shard, temporary)
        temporary.replace(CACHE / f"{index:04}.pt")
        log.write(shard=index, objects=args.objects, size=shard["scenes"][0]["size"], clips_per_s=done * args.clips / clock.elapsed())


if __name__ == "__main__":
    main()
