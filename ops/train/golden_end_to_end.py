"""Makes the end-to-end golden case once more from the weights that ship, with every part read in f32 from the start.

    python -m ops.train.golden_end_to_end

A Gemma that is read in f16 and widened afterwards keeps the factor of its embedding rounded to f16 (9.796875 for sqrt(96)),
because that buffer is in no file; contexts then differ by 2.4e-4 from f32 arithmetic on the same weights.
"""

import json
import math

import torch

from . import denoise, export


def reload(folder, variant):
    """All parts from the folder, in f32 and never in anything narrower."""
    words = {"transformers": "dtype", "diffusers": "torch_dtype", "ltx2": "torch_dtype"}
    loaded = {name: cls.from_pretrained(folder / name, **{words[library]: torch.float32}).eval()
              for name, (library, cls) in export.CLASSES.items()}
    check_embedding(loaded["text_encoder"])
    denoiser = denoise.Denoiser(variant).eval()
    denoiser.text_encoder, denoiser.connectors, denoiser.transformer = (loaded[k] for k in ("text_encoder", "connectors", "transformer"))
    return denoiser, loaded["vae"], loaded["audio_vae"], loaded["vocoder"]


def check_embedding(text_encoder):
    embedding = text_encoder.get_input_embeddings()
    expected = math.sqrt(embedding.weight.shape[1])
    if abs(float(embedding.embed_scale) / expected - 1) > 1e-7:
        raise SystemExit(f"the embedding is scaled by {float(embedding.embed_scale)}, expected {expected}")


def main():
    torch.set_num_threads(1)
    defaults = json.loads((export.FOLDER / "dailies.json").read_text())
    export.reload = reload
    export.write_golden(export.FOLDER, defaults["variant"], defaults)
    print(f"{export.GOLDEN.relative_to(export.ROOT)}: {export.GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
