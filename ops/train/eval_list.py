"""Writes eval_scenes.json: the fixed evaluation list (DSL + full caption + ground truth).

256 scenes of validation seeds and 32 with a held-out pair (blue triangle, metal square).
"""

import json
import pathlib

from . import captions, scenes

COUNT, HELD_OUT_COUNT = 256, 32


def entry(seed, held_out):
    scene = scenes.draw_scene(seed, held_out=held_out)
    scene["caption"] = captions.caption_of_seed(scene, full=True)
    scene["contacts"] = scenes.contacts_of(scene)
    return scene


def main():
    first = scenes.VALIDATION_SEED
    head = ("Formulas: the docstring of ops/train/scenes.py. Units: metres, seconds; x from the left edge, y from the "
            "contact line up, both of the centre at time 0. contacts: [object index, time, impact speed]. "
            "Count, background and gravity: objects, bg, gravity. The caption names every attribute.")
    data = [entry(first + i, False) for i in range(COUNT)]
    held = [entry(first + 100000 + i, True) for i in range(HELD_OUT_COUNT)]
    dump = lambda rows: ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows)
    text = '{"about":%s,\n"scenes":[\n%s\n],\n"held_out":[\n%s\n]}\n' % (json.dumps(head), dump(data), dump(held))
    path = pathlib.Path(__file__).with_name("eval_scenes.json")
    path.write_text(text)
    print(path.name, len(text), "bytes")


if __name__ == "__main__":
    main()
