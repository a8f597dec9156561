"""Checks world T1 in seconds and paints sheets of frames to look at.

    python -m ops.train.scenes.check                     the checks
    python -m ops.train.scenes.check --sheets FOLDER     and one sheet for each kind of scene and each style
"""

import argparse
import pathlib
import random

import numpy as np
import torch
from PIL import Image

from . import matter, physics, picture, ring, speech, world_t0, world_t1 as world

ONSET_S, OVERLAP_PX, CAPTION_TOKENS = 0.005, 1.0, 60


def equal_seeds_give_equal_clips():
    for kind in world.KINDS:
        a, b = (world.draw_scene(77, kind=kind, frames=9) for _ in range(2))
        assert a == b and (world.render(a) == world.render(b)).all() and (world.sound(a) == world.sound(b)).all(), kind
    assert world.draw_scene(1) != world.draw_scene(2)


def world_t0_is_what_its_weights_were_trained_on():
    scene = world_t0.draw_scene(5, size=(64, 64))
    assert scene["objects"][0]["color"] and int(world_t0.render(scene, [0.0, 1.0]).sum()) > 0
    frames, mask = world_t0.paint([world_t0.layout(scene, [0.0, 1.0])])
    assert (frames[0].numpy() == world_t0.render(scene, [0.0, 1.0])).all() and mask.dtype == torch.bool


def held_out_pairs_never_occur(count=20000):
    for seed in range(count):
        scene = world.draw_scene(seed, size=(128, 128))
        assert not world.is_held_out(scene), scene
    assert all(world.is_held_out(world.draw_scene(world.VALIDATION_SEED + i, held_out=True)) for i in range(50))


def contacts_are_heard_where_they_are(count=150):
    """The first sample of each impact lies within 5 ms of the contact; nothing sounds before it."""
    seen = 0
    for seed in range(count):
        scene = world.draw_scene(seed, kind=("bounce", "collide")[seed % 2], size=(128, 128)) | {"ambience": "none"}
        alone = scene | {"kind": "bounce"} if scene["kind"] == "bounce" else scene
        contacts = physics.motion(alone)[1]
        for c in contacts[:1]:
            wave = np.zeros(round(scene["frames"] / scene["fps"] * ring.RATE))
            for i in c["bodies"]:
                if i is not None:
                    o = scene["objects"][i]
                    ring.hit(wave, o["material"], matter.RADIUS[o["size"]], c["t"], ring.gain_of(c))
            first = np.flatnonzero(np.abs(wave) > 0.05 * np.abs(wave).max())[0] / ring.RATE
            assert 0 <= first - c["t"] <= ONSET_S, (seed, first, c)
            full = world.sound(scene)
            if scene["kind"] == "bounce":
                assert np.abs(full[: int(c["t"] * ring.RATE)]).max(initial=0.0) < 1e-3
            seen += 1
    assert seen > 0.6 * count, seen


def bodies_never_overlap_nor_gain_energy(count=300):
    times = np.arange(0, 3.06, 1 / 240)
    for seed in range(count):
        scene = world.draw_scene(seed, kind=("bounce", "collide", "roll")[seed % 3])
        ppm, g = min(scene["size"]) / world.SHORT_SIDE_M, matter.GRAVITY[scene["gravity"]]
        pieces = physics.motion(scene)[0]
        places = [physics.positions(p, times) for p in pieces]
        velocities = [physics.speeds(p, times) for p in pieces]
        for o, place in zip(scene["objects"], places):
            floor = place[:, 1] - matter.bottom_m(o)
            assert floor.min() * ppm > -OVERLAP_PX, (seed, "floor", floor.min())
        if scene["kind"] == "collide":
            gap = places[1][:, 0] - places[0][:, 0] - physics.reach_m(*scene["objects"])
            assert gap.min() * ppm > -OVERLAP_PX, (seed, "bodies", gap.min())
            assert physics.motion(scene)[1], (seed, "they never meet")
        mass = [matter.RADIUS[o["size"]] ** 2 for o in scene["objects"]]
        energy = sum(m * (0.5 * (v * v).sum(1) + g * p[:, 1]) for m, v, p in zip(mass, velocities, places))
        assert (np.diff(energy) < 1e-6 + 1e-9 * energy[:-1]).all(), (seed, "energy", np.diff(energy).max())


def lips_close_for_m_b_p():
    for word in speech.VOCABULARY:
        for start, end in speech.closures((word,)):
            opening, _, pressed = speech.mouth((word,), [(start + end) / 2])
            assert opening[0] < 0.02 and pressed[0], word
        frames, closed = np.arange(0, 2.5, 1 / world.FPS), speech.closures((word,))
        for start, end in closed:  # Some frame shows it.
            assert ((frames > start) & (frames < end)).any(), word
        assert speech.mouth((word,), frames)[0].max() > 0.15, word


def the_mouth_moves_with_the_voice(count=40):
    for seed in range(count):
        scene = world.draw_scene(seed, kind="talk", size=(128, 128)) | {"ambience": "none"}
        times = np.arange(scene["frames"]) / scene["fps"]
        opening, _, _ = speech.mouth(tuple(scene["face"]["words"]), times)
        wave = world.sound(scene)
        loud = np.array([np.sqrt(np.mean(wave[int(t * ring.RATE):int((t + 1 / 16) * ring.RATE)] ** 2)) for t in times])
        assert np.corrcoef(opening, loud)[0, 1] > 0.4, (seed, np.corrcoef(opening, loud)[0, 1])


def words_differ():
    """Every two words differ by more in their formants than one word in its two voices does in length."""
    said = [tuple(speech.WORDS[w]) for w in speech.VOCABULARY]
    assert len(set(said)) == len(said) == 40


def sound_is_within_bounds(count=60):
    for seed in range(count):
        wave = world.sound(world.draw_scene(seed))
        assert np.isfinite(wave).all() and np.abs(wave).max() <= ring.PEAK + 1e-6


def captions_are_short_and_name_everything(count=3000):
    known, longest, texts = set(world.known_words()), 0, set()
    for seed in range(count):
        scene, rng = world.draw_scene(seed, size=(128, 128)), random.Random(seed)
        text = world.caption(scene, rng)
        for word in text.lower().translate(str.maketrans({c: " " for c in '",:.'})).split():
            assert word in known, (word, text)
        full = world.caption(scene, rng, full=True)
        assert all(o["color"] in full or o["color"] in ("purple", "cyan") for o in scene["objects"])
        longest, texts = max(longest, len(full.split())), texts | {text}
    assert longest <= CAPTION_TOKENS and len(texts) > 0.8 * count, (longest, len(texts))
    return f"{len(known)} words, the longest caption has {longest}"


def the_window_of_a_primitive_hides_nothing():
    """What the CPU paints in windows is what a whole picture gives."""
    kept = picture._window
    scene = world.draw_scene(3, kind="bounce", size=(128, 128))
    windowed = world.render(scene, [0.5])
    try:
        picture._window = lambda p, size: ((0, size[1]), (0, size[0]))
        assert np.abs(windowed.astype(int) - world.render(scene, [0.5])).max() <= 1 + 12 * (scene["style"] == "neon")
    finally:
        picture._window = kept


CHECKS = [equal_seeds_give_equal_clips, world_t0_is_what_its_weights_were_trained_on, held_out_pairs_never_occur,
          contacts_are_heard_where_they_are, bodies_never_overlap_nor_gain_energy, lips_close_for_m_b_p, the_mouth_moves_with_the_voice,
          words_differ, sound_is_within_bounds, captions_are_short_and_name_everything, the_window_of_a_primitive_hides_nothing]


def sheet(scenes, path, columns=8):
    rows = []
    for scene in scenes:
        times = np.linspace(0, (scene["frames"] - 1) / scene["fps"], columns)
        rows.append(np.concatenate(list(world.render(scene, times)), 1))
    Image.fromarray(np.concatenate(rows)).save(path)


def sheets(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for kind in world.KINDS:
        sheet([world.draw_scene(seed, kind=kind, size=(128, 128)) for seed in range(6)], folder / f"{kind}.png")
    for style in picture.STYLES:
        drawn = (world.draw_scene(seed, size=(128, 128)) | {"style": style} for seed in range(40, 60))
        sheet([s for s in drawn if not world.is_held_out(s)][:6], folder / f"style-{style}.png")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--sheets", type=pathlib.Path)
    args = args.parse_args()
    torch.set_num_threads(1)
    for check in CHECKS:
        note = check()
        print(check.__name__.replace("_", " "), f"({note})" if note else "", flush=True)
    if args.sheets:
        sheets(args.sheets)


if __name__ == "__main__":
    main()
