"""The fixed evaluation lists: DSL, full caption and ground truth of scenes of validation seeds.

    python -m ops.train.eval_list                              eval_scenes.json, the list of T0; the evaluation draws its films itself
    python -m ops.train.eval_list --variant t1 --oracle DIR    the list of T1 and its films, for `dailies eval builtin --oracle DIR`

The films of T1 are PNG strips, frames from top to bottom, and WAV files: its renderer exists in Python alone. DIR also
gets the sounds that are compared with: each material in each size, each word in each voice, and each phrase's timing.

256 scenes of validation seeds and 32 with a held-out pair (blue triangle, metal square).
"""

import argparse
import json
import pathlib
import random
import wave

import numpy as np
from PIL import Image

from .scenes import faces, matter, ring, speech, world_t0, world_t1

COUNT, HELD_OUT_COUNT = 256, 32
T0_LIST = pathlib.Path(__file__).with_name("eval_scenes.json")


def listed(variant, count=COUNT):
    """The ordinary scenes of a variant's list."""
    if variant == "t0":
        return json.loads(T0_LIST.read_text())["scenes"][:count]
    return [entry_t1(world_t1.VALIDATION_SEED + i, False) for i in range(count)]


def entry(seed, held_out):
    scene = world_t0.draw_scene(seed, held_out=held_out)
    scene["caption"] = world_t0.caption_of_seed(scene, full=True)
    scene["contacts"] = world_t0.contacts_of(scene)
    return scene


def entry_t1(seed, held_out):
    """A scene of T1 with what the detectors are held against."""
    scene = world_t1.draw_scene(seed, held_out=held_out)
    scene["caption"] = world_t1.caption(scene, random.Random(seed), full=True)
    scene["contacts"] = world_t1.contacts_of(scene)
    scene["closures"] = speech.closures(scene["face"]["words"]) if scene["face"] else []
    if scene["kind"] == "collide":
        a, b = scene["objects"]
        scene["bounce"] = round(matter.bounce_of(a, b), 4)
    return scene


def write_t0():
    first = world_t0.VALIDATION_SEED
    head = ("Formulas: the docstring of ops/train/scenes.py. Units: metres, seconds; x from the left edge, y from the "
            "contact line up, both of the centre at time 0. contacts: [object index, time, impact speed]. "
            "Count, background and gravity: objects, bg, gravity. The caption names every attribute.")
    data = [entry(first + i, False) for i in range(COUNT)]
    held = [entry(first + 100000 + i, True) for i in range(HELD_OUT_COUNT)]
    T0_LIST.write_text(_json(head, data, held))
    print(T0_LIST.name, T0_LIST.stat().st_size, "bytes")


def _json(head, data, held, **more):
    dump = lambda rows: ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
    tail = "".join(f',\n"{key}":{json.dumps(value)}' for key, value in more.items())
    return '{"about":%s,\n"scenes":[\n%s\n],\n"held_out":[\n%s\n]%s}\n' % (json.dumps(head), dump(data), dump(held), tail)


def write_t1(folder, count, held_out_count):
    """scenes.json, films/NNN.png and .wav, hits/MATERIAL-SIZE.wav, words/WORD-VOICE.wav."""
    for name in ("films", "hits", "words"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    data = listed("t1", count)
    held = [entry_t1(world_t1.VALIDATION_SEED + 100000 + i, True) for i in range(held_out_count)]
    for i, scene in enumerate(data):
        frames = world_t1.render(scene)
        Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(folder / "films" / f"{i:03}.png", compress_level=3)
        write_wav(folder / "films" / f"{i:03}.wav", world_t1.sound(scene))
    for material in matter.MATERIALS:
        for size, radius in matter.RADIUS.items():
            hit = np.zeros(ring.RATE // 2)
            ring.hit(hit, material, radius, 0.1, 0.5)
            write_wav(folder / "hits" / f"{material}-{size}.wav", hit)
    for word in speech.VOCABULARY:
        for voice in speech.PITCH:
            write_wav(folder / "words" / f"{word}-{voice}.wav", speech.say((word,), voice, speech.START_S + speech.seconds_of(word) + 0.3))
    truth = {"mouth": mouth_box(), "line_m": world_t1.LINE_M, "short_side_m": world_t1.SHORT_SIDE_M, "colors": matter.COLOR,
             "radius_m": matter.RADIUS, "restitution": matter.RESTITUTION, "gravity": matter.GRAVITY, "bottom": matter.BOTTOM}
    head = "Formulas: ops/train/scenes. contacts: [time, speed of approach, [materials]]; closures: [start, end] of m, b and p."
    (folder / "scenes.json").write_text(_json(head, data, held, truth=truth))
    print(f"{folder}: {len(data)} scenes with films, {len(held)} with pairs that training never shows")


def mouth_box():
    """Metres from the middle of the picture and from the contact line: left, right, bottom, top of all that a mouth moves."""
    y = faces.HEAD[1] - faces.MOUTH_DOWN
    return [-0.36, 0.36, y - 0.26, y + 0.26]


def write_wav(path, samples):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(ring.RATE)
        f.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--variant", default="t0")
    args.add_argument("--oracle", type=pathlib.Path, help="folder for the films of a world that the evaluation cannot draw itself")
    args.add_argument("--count", type=int, default=COUNT)
    args.add_argument("--held-out", type=int, default=HELD_OUT_COUNT)
    args = args.parse_args()
    if args.variant == "t0":
        write_t0()
    elif args.oracle:
        write_t1(args.oracle, args.count, args.held_out)
    else:
        raise SystemExit("--variant t1 needs --oracle DIR, the folder for its films")


if __name__ == "__main__":
    main()
