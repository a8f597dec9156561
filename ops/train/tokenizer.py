"""The caption tokenizer: BPE with byte fallback, left padding, 64 tokens, BOS added.

    python -m ops.train.tokenizer       trains it on captions and writes runs/tokenizer/
"""

import argparse
import json
import random

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models as tokenizer_models, normalizers, processors, trainers

from . import models, scenes, stage

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<image>", "<boi>", "<eoi>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
FOLDER = stage.RUNS / "tokenizer"


def train(world, vocabulary, count=60000):
    """Ids: 7 specials, 256 bytes, then letters and merges."""
    normalizer = normalizers.Replace(" ", "\u2581")
    plain = Tokenizer(tokenizer_models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    plain.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL + BYTES, show_progress=False)
    # Words are cut before the space mark, so that a merge never spans two words.
    words = (w for text in _texts(world, count) for w in _words(text))
    plain.train_from_iterator(words, trainer)
    raw = json.loads(plain.to_str())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)])
    return tokenizer


def _texts(world, count):
    rng = random.Random(0)
    for seed in range(count):
        yield world.caption(world.draw_scene(seed, size=world.SIZES[0]), rng)


def _words(text):
    first, *rest = text.split(" ")
    return [first] + [" " + w for w in rest]


def export(folder, tokenizer):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": models.TEXT_TOKENS, "padding_side": "left",
              "truncation_side": "right", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
              "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(folder=None):
    return Tokenizer.from_file(str((folder or FOLDER) / "tokenizer.json"))


def encode(tokenizer, texts):
    """ids and mask [B, 64] int64, cut on the right, padded on the left."""
    ids = np.zeros((len(texts), models.TEXT_TOKENS), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        tokens = tokenizer.encode(text.strip()).ids[: models.TEXT_TOKENS]
        ids[row, models.TEXT_TOKENS - len(tokens):] = tokens
        mask[row, models.TEXT_TOKENS - len(tokens):] = 1
    return ids, mask


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args = args.parse_args()
    world = scenes.of(args.variant)
    tokenizer = train(world, models.VARIANTS[args.variant]["vocab"])
    export(FOLDER, tokenizer)
    texts = [world.caption(world.draw_scene(world.VALIDATION_SEED + seed), random.Random(seed), full=True) for seed in range(2000)]
    longest = max(texts, key=lambda text: len(tokenizer.encode(text).ids))
    print(tokenizer.get_vocab_size(), len(tokenizer.encode(longest).ids), tokenizer.encode(longest).tokens)
    if len(tokenizer.encode(longest).ids) > models.TEXT_TOKENS:
        raise SystemExit(f"'{longest}' has more than {models.TEXT_TOKENS} tokens")


if __name__ == "__main__":
    main()
