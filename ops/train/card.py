"""MODEL_CARD.md from the logs of the stages and the measurements in runs/samples.jsonl."""

import json

from . import models, scenes, stage


def rows(name):
    path = stage.RUNS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stages():
    """Wall minutes, steps and last losses of each stage; a stage that was resumed adds up."""
    out = {}
    for log, key in (("vae", "phase"), ("audio", "part"), ("dit", None)):
        for r in rows(log):
            if "minutes" not in r:
                continue
            s = out.setdefault(f"{log} {r[key]}" if key else log, {"minutes": 0.0, "steps": 0, "_last": 0.0})
            if r["minutes"] < s["_last"]:
                s["minutes"] += s["_last"]
            s["_last"], s["steps"] = r["minutes"], max(s["steps"], r["step"])
            s.update({k: r[k] for k in ("loss", "mel_l1", "video", "audio", "clips") if k in r})
    for s in out.values():
        s["minutes"] = round(s["minutes"] + s.pop("_last"), 1)
    return out


def parameters(parts):
    denoiser, vae, audio, vocoder, _ = parts
    named = {"transformer": denoiser.transformer, "vae": vae, "audio_vae": audio, "vocoder": vocoder,
             "connectors": denoiser.connectors, "text_encoder": denoiser.text_encoder}
    return {k: models.parameter_count(m) for k, m in named.items()}


def where():
    """What trained."""
    on_gpu = [r["step"] for r in rows("dit") if r.get("device", "cpu") != "cpu"]
    return "Two CPU cores, shared with other work" + (f", and one GPU for steps {on_gpu[0]} to {on_gpu[-1]} of dit" if on_gpu else "")


def table(head, body):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in body])


MEASURES = [("colour right", "color", "0.8"), ("shape right", "shape", "0.6"), ("count right", "count", "0.7"),
            ("size right", "size", "0.6"), ("background right", "bg", "0.9"), ("colour, shape and count right", "joint", "0.35"),
            ("sync, median (s)", "sync_median_s", "0.090"), ("sync, p90 (s)", "sync_p90_s", "-"), ("impacts heard", "recall", "0.6"),
            ("sounds seen", "precision", "-"), ("g / true g, median", "g_ratio_median", "0.8-1.2"), ("fall parabola R2, median", "g_r2_median", "0.95")]


def evaluation(defaults):
    """The newest and widest measurement with the exported sampling defaults, its baseline, and that of the codecs."""
    same = lambda r: r.get("codec") or (r.get("steps"), r.get("guidance")) == (len(defaults["sigmas"]) - 1, defaults["guidance_video"])
    found = [r for r in rows("samples") if same(r)]
    best = lambda kind: max((r for r in found if bool(r.get("codec")) == (kind == "codec") and r.get("baseline", False) == (kind == "baseline")),
                            key=lambda r: (r["step"], r["count_of_clips"]), default={})
    model, codec, base = best("model"), best("codec"), best("baseline")
    if not model:
        return "Not measured yet."
    head = ["measure", "model", "captions and sounds shuffled", "codecs alone", "mark for T0"]
    body = [[name] + [r.get(key, "-") for r in (model, base, codec)] + [mark] for name, key, mark in MEASURES]
    note = "Colour, shape and size count as wrong when the number of objects is wrong. "
    return (note + f"Measured by `ops/train/measure.py` on the first {model['count_of_clips']} clips of `ops/train/eval_scenes.json` "
            f"(full captions, validation seeds, all three sizes), after {model['step']} steps; {model['steps']} sampling steps, shift {model['shift']}, "
            f"guidance {model['guidance']} / {model['audio_guidance']}. These are our own quick measurements in Python, not the report of "
            "`dailies eval builtin`; where the two differ, the report counts.\n\n" + table(head, body))


def text(defaults, counts, date):
    world = scenes.of(defaults["variant"])
    training = defaults["training"]["stages"]
    lost = lambda s: ", ".join(f"{k} {s[k]:.4g}" for k in ("loss", "mel_l1", "video", "audio", "clips") if k in s)
    psnr = {tuple(r["size"]): r["psnr"] for r in rows("vae") if r.get("phase") == "clips" and "psnr" in r}
    parts = table(["part", "parameters"], list(counts.items()) + [("total", sum(counts.values()))])
    work = table(["stage", "minutes", "steps", "last values"], [[n, s["minutes"], s["steps"], lost(s)] for n, s in training.items()])
    return TEXT.format(
        where=where(), name=defaults["name"], variant=defaults["variant"].upper(), date=date, parts=parts, work=work, evaluation=evaluation(defaults),
        psnr=", ".join(f"{w}x{h}: {v:.1f} dB" for (w, h), v in psnr.items()) or "not measured", steps=len(defaults["sigmas"]) - 1,
        video=defaults["guidance_video"], audio=defaults["guidance_audio"], digest=defaults["training"]["sha256_of_states"], ready=world.READY,
        sizes=", ".join(f"{w}x{h}" for w, h in world.SIZES), fps=world.FPS, frames=world.FRAMES_MAX, seconds=world.FRAMES_MAX / world.FPS,
        latent=models.VARIANTS[defaults["variant"]]["latent"], module=scenes.WORLDS[defaults["variant"]],
        colours=", ".join(world.COLORS), shapes=", ".join(world.SHAPES), words=", ".join(world.known_words()))


TEXT = """# {name}, variant {variant}

Date: {date}.
Training digest (SHA-256 of the stages' states): `{digest}`.

## Purpose and limits

A small model that makes a short film with sound from a sentence about its small world.
{ready}
It exists so that the product runs on a fresh machine without a download and so that every part of the engine is tested with real weights.
It is no general video model: it knows a small world of drawn shapes and the words listed below, and anything else is ignored or confused.
Pictures are {sizes} at {fps} frames a second, up to {frames} frames ({seconds:.2f} s), with 16 kHz mono sound.

## Parts

The classes and the folder layout are those of LTX-2 2.3; the vocoder is the plain `LTX2Vocoder`.
The video VAE compresses 16x16 pixels and 4 frames to one token of {latent} values.

{parts}

Default sampling: {steps} Euler steps, guidance {video} (picture) and {audio} (sound), empty negative prompt.

## Data

Everything comes from the procedural generator in `ops/train/scenes/{module}.py`, drawn from seeds below 2147483648.
Validation and evaluation use seeds from there on.
Its text tells where bodies start, which pairs of attributes training never draws, and every formula.
No third-party picture, sound, text or weight was used.

## Training

{where}; bf16 autocast, Muon for matrices and Adam for vectors; losses at the end of each stage:

{work}

PSNR of the video VAE on whole validation clips: {psnr}.

## Evaluation

{evaluation}

A missed mark is a known fault of these weights, not of the engine.

## Words it knows

Colours: {colours}.
Shapes: {shapes}.
All words: {words}.

## Licence

Apache-2.0, as the project.
"""
