"""Writes the weights folder from the states of all stages, reloads it, and makes the end-to-end golden case from it.

    python -m ops.train.export --steps 12 --shift 3 --guidance 2.5 --audio-guidance 2.5

The golden case comes from the exported f16 files, read back into f32 with diffusers and transformers.
"""

import argparse
import datetime
import hashlib
import json
import math
import pathlib
import shutil

import torch
import transformers
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, FlowMatchEulerDiscreteScheduler, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from safetensors.torch import load_file, save_file

from . import card, denoise, models, sample, scenes, sound, stage, tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "agent" / "weights" / "builtin"
GOLDEN = ROOT / "agent" / "diffusion" / "tests" / "golden" / "end_to_end.safetensors"
BYTES_MAX = 32 * 1024 * 1024
GOLDEN_BYTES_MAX = 400 * 1024
GOLDEN_PROMPT, GOLDEN_SIZE, GOLDEN_FRAMES, GOLDEN_SEED = "a big red rubber ball bounces on the floor by day", (64, 64), 29, 7
PICKED_FRAMES = (0, 10, 28)
CLASSES = {
    "vae": ("diffusers", AutoencoderKLLTX2Video), "audio_vae": ("diffusers", AutoencoderKLLTX2Audio),
    "transformer": ("diffusers", LTX2VideoTransformer3DModel), "connectors": ("ltx2", LTX2TextConnectors),
    "vocoder": ("ltx2", LTX2Vocoder), "text_encoder": ("transformers", transformers.Gemma3ForConditionalGeneration),
}


def write_folder(folder, parts):
    denoiser, vae, audio, vocoder, _ = parts
    modules = {"vae": vae, "audio_vae": audio, "vocoder": vocoder, "transformer": denoiser.transformer,
               "connectors": denoiser.connectors, "text_encoder": denoiser.text_encoder}
    if vae.latents_std.eq(1).all() or audio.latents_std.eq(1).all():
        raise SystemExit("latents_mean and latents_std are not set")
    for name, module in modules.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        module.half().save_pretrained(folder / name)
        check_values(folder / name)
        for path in (folder / name).iterdir():
            path.chmod(0o644)
    (folder / "text_encoder" / "generation_config.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    tokenizer.export(folder / "tokenizer", tokenizer.load())
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None).save_pretrained(folder / "scheduler")
    index = {"_class_name": "LTX2Pipeline", "_diffusers_version": "0.42.1",
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "tokenizer": ["transformers", "GemmaTokenizerFast"]}
    index |= {name: [library, cls.__name__] for name, (library, cls) in CLASSES.items()}
    write_json(folder / "model_index.json", dict(sorted(index.items())))


def check_values(folder):
    for path in folder.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            if not torch.isfinite(tensor).all() or tensor.float().abs().max() > 6e4:
                raise SystemExit(f"{path.name}: {name} has a value that f16 cannot hold")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_sums(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if total > BYTES_MAX:
        raise SystemExit(f"the folder has {total} bytes, more than {BYTES_MAX}")
    return total


def reload(folder, variant):
    """All parts from the folder, read in f32 and never in anything narrower.

    A Gemma that is read in f16 and widened afterwards keeps the factor of its embedding rounded to f16 (9.796875 for
    sqrt(96)), because that buffer is in no file; contexts then differ by 2.4e-4 from f32 arithmetic on the same weights.
    """
    words = {"transformers": "dtype", "diffusers": "torch_dtype", "ltx2": "torch_dtype"}
    loaded = {name: cls.from_pretrained(folder / name, **{words[library]: torch.float32}).eval()
              for name, (library, cls) in CLASSES.items()}
    check_embedding(loaded["text_encoder"])
    denoiser = denoise.Denoiser(variant).eval()
    denoiser.text_encoder, denoiser.connectors, denoiser.transformer = (loaded[k] for k in ("text_encoder", "connectors", "transformer"))
    return denoiser, loaded["vae"], loaded["audio_vae"], loaded["vocoder"]


def check_embedding(text_encoder):
    embedding = text_encoder.get_input_embeddings()
    expected = math.sqrt(embedding.weight.shape[1])
    if abs(float(embedding.embed_scale) / expected - 1) > 1e-7:
        raise SystemExit(f"the embedding is scaled by {float(embedding.embed_scale)}, expected {expected}")


@torch.no_grad()
def write_golden(folder, variant, defaults):
    denoiser, vae, audio, vocoder = reload(folder, variant)
    grid, fps = denoise.grid_of(GOLDEN_SIZE, GOLDEN_FRAMES), float(scenes.of(variant).FPS)
    make = torch.Generator().manual_seed(GOLDEN_SEED)
    noise = torch.randn(1, grid[0] * grid[1] * grid[2], vae.config.latent_channels, generator=make)
    audio_noise = torch.randn(1, sound.latents_of(GOLDEN_FRAMES, fps), audio.config.latent_channels * 16, generator=make)
    tok = tokenizer.load(folder / "tokenizer")
    positive, negative = (tuple(torch.from_numpy(t) for t in tokenizer.encode(tok, [text]))
                          for text in (GOLDEN_PROMPT, defaults["negative_prompt"]))
    context, free = denoiser.context(*positive), denoiser.context(*negative)
    scale = defaults["guidance_video"], defaults["guidance_audio"]
    run = lambda sigmas: denoise.sample(denoiser, positive, negative, noise, audio_noise, grid, fps, sigmas, *scale)
    x1, a1 = run(defaults["sigmas"][:2])
    x, a = run(defaults["sigmas"])
    frames, wave = denoise.decode_video(vae, x, grid), denoise.decode_audio(audio, vocoder, a)
    tensors = {
        "noise_video": noise[0], "noise_audio": audio_noise[0], "ids": positive[0][0].int(), "mask": positive[1][0].int(),
        "negative_ids": negative[0][0].int(), "negative_mask": negative[1][0].int(), "context_video": context[0][0],
        "context_audio": context[1][0], "negative_context_video": free[0][0], "negative_context_audio": free[1][0],
        "video_after_step_1": x1[0], "audio_after_step_1": a1[0], "video": x[0], "audio": a[0],
        "frames": frames[0, :, list(PICKED_FRAMES)].permute(1, 0, 2, 3).half(), "samples": wave[0, :4096]}
    meta = {"prompt": GOLDEN_PROMPT, "negative_prompt": defaults["negative_prompt"], "sigmas": defaults["sigmas"],
            "guidance_video": scale[0], "guidance_audio": scale[1], "seed": GOLDEN_SEED, "width": GOLDEN_SIZE[0],
            "height": GOLDEN_SIZE[1], "frames": GOLDEN_FRAMES, "fps": int(fps), "frame_indices": PICKED_FRAMES,
            "about": "frames [3, rgb, row, column] in -1..1 (f16); latents in token layout, normalised; "
                     "context after the connectors; velocity with cross timesteps; f32 arithmetic on the f16 weights"}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, GOLDEN, metadata={k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()})
    GOLDEN.chmod(0o644)
    if GOLDEN.stat().st_size > GOLDEN_BYTES_MAX:
        raise SystemExit(f"{GOLDEN.name} has {GOLDEN.stat().st_size} bytes, more than {GOLDEN_BYTES_MAX}")


def training_record():
    """Steps, minutes and last losses of every stage, from the logs; and a digest of all states."""
    digest = hashlib.sha256()
    for name in ("vae", "audio_vae", "vocoder", "statistics", "dit"):
        digest.update((stage.RUNS / f"{name}.pt").read_bytes())
    return {"sha256_of_states": digest.hexdigest(), "seed": 0, "stages": card.stages()}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--steps", type=int, default=12)
    args.add_argument("--shift", type=float, default=3.0)
    args.add_argument("--guidance", type=float, default=2.5)
    args.add_argument("--audio-guidance", type=float, default=2.5)
    args.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="another one leaves the shipped weights and their golden case alone")
    args.add_argument("--date", default=datetime.date.today().isoformat())
    args = args.parse_args()
    torch.set_num_threads(1)
    world = scenes.of(args.variant)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = sample.parts(args.variant)
    counts = card.parameters(parts)
    write_folder(folder, parts)
    defaults = {
        "name": "Dailies built-in procedural-world model", "variant": args.variant, "sizes": [list(s) for s in world.SIZES],
        "fps": world.FPS, "frames_default": world.FRAMES_MAX, "frames_max": world.FRAMES_MAX, "frames_step": models.SCALE_FACTORS[0],
        "sigmas": denoise.shifted(args.steps, args.shift), "guidance_video": args.guidance, "guidance_audio": args.audio_guidance,
        "negative_prompt": "", "vocabulary": world.known_words(), "licence": "Apache-2.0", "training": training_record()}
    write_json(folder / "dailies.json", defaults)
    (folder / "MODEL_CARD.md").write_text(card.text(defaults, counts, args.date))
    print(f"{folder}: {write_sums(folder)} bytes")
    if folder == FOLDER:
        write_golden(folder, args.variant, defaults)
        print(f"{GOLDEN.relative_to(ROOT)}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
