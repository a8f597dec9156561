"""World T1: physics with five materials and collisions, talking characters, styles, cameras, weather.

UNITS as in world T0: metres and seconds, y up from the contact line, x from the left edge of a picture at rest whose
short side is SHORT_SIDE_M. The camera moves over it: a pan by PAN_M over the clip, a zoom between 1 and ZOOM about the
middle of the floor.

DSL. {"world", "seed", "size", "frames", "fps", "kind", "style", "bg", "camera", "gravity", "ambience", "objects", "face"}
    kind      bounce (1-4 bodies fall), collide (two meet on the floor), roll, pendulum, talk, quiet (weather alone)
    objects   {"shape", "color", "size", "material", "x", "y", "vx", "vy"}; a pendulum's x, y are its pivot, with "rod" and "swing"
    face      see faces.py; null if nobody talks
No two bodies of a clip have the same colour. Formulas: matter.py, physics.py, ring.py, speech.py, faces.py, picture.py.

HOLD-OUTS. No training scene has a green star, a blue triangle, a metal square, neon rain, a hat whose bearer says
"seven", or one of four words said with glasses on. Training seeds are below VALIDATION_SEED.
"""

import math
import random

import numpy as np
import torch

from . import faces, matter, physics, picture, ring, speech
from .captions_t1 import caption, known_words  # noqa: F401  Part of the world.
from .matter import BOTTOM, COLORS, HALF_WIDTH, MATERIALS, RADIUS, SHAPES, TOP
from .picture import BACKGROUNDS, BOX, FOLD, ROUND, STYLES

SHORT_SIDE_M, FPS, RATE, FRAMES_MAX = 3.0, 16, ring.RATE, 49
SIZES = [(128, 128), (224, 128), (128, 224)]
VALIDATION_SEED = 1 << 31
KINDS = {"bounce": 40, "collide": 15, "roll": 7, "pendulum": 8, "talk": 25, "quiet": 5}
CAMERAS, PAN_M, ZOOM = ["static", "pan_left", "pan_right", "zoom_in", "zoom_out"], 0.5, 1.25
AMBIENCES = list(ring.AMBIENCE_LEVEL)
LINE_M, HORIZON_M = 0.28, 0.22  # Contact line above the bottom edge, horizon above the contact line.
HELD_OUT = {("green", "star"), ("blue", "triangle"), ("metal", "square")}
PRIMITIVES = 24  # Of a frame, at most.
READY = ("It draws up to four falling, rolling, swinging and colliding bodies of five materials, characters that say up to three of "
         "forty words, in four styles, with five cameras and four backgrounds.")


def is_held_out(scene):
    objects = any((o["color"], o["shape"]) in HELD_OUT or (o["material"], o["shape"]) in HELD_OUT for o in scene["objects"])
    face = scene["face"]
    said = face and ((face["hat"] and "seven" in face["words"]) or (face["glasses"] and faces.GLASSES_NEVER_SAY & set(face["words"])))
    return bool(objects or said or (scene["style"] == "neon" and scene["bg"] == "rain"))


def training_scene(rng, size, easy=False):
    return draw_scene(int(rng.integers(VALIDATION_SEED)), size=size, easy=easy)


def draw_scene(seed, size=None, easy=False, held_out=False, frames=FRAMES_MAX, kind=None):
    """The scene of a seed. An easy one has one body or one word, and a camera that stands."""
    rng = random.Random(seed)
    while True:
        scene = _draw(rng, seed, size or rng.choices(SIZES, (40, 20, 40))[0], easy, held_out, frames, kind)
        if is_held_out(scene) == held_out:
            return scene


def _draw(rng, seed, size, easy, held_out, frames, kind):
    kind = kind or (rng.choice(("bounce", "bounce", "talk")) if held_out else rng.choices(list(KINDS), list(KINDS.values()))[0])
    talks = kind == "talk"
    scene = {"world": "t1", "seed": seed, "size": list(size), "frames": frames, "fps": FPS, "kind": kind,
             "style": rng.choices(STYLES, (40, 20, 20, 20))[0], "bg": rng.choice(BACKGROUNDS),
             "camera": "static" if talks or easy or rng.random() < 0.4 else rng.choice(CAMERAS[1:]), "gravity": "earth",
             "ambience": rng.choices(AMBIENCES, (80, 6, 7, 7) if talks else (55, 15, 15, 15))[0], "objects": [], "face": None}
    if kind == "quiet":
        scene["ambience"] = rng.choice(AMBIENCES[1:])
    if kind in ("bounce", "pendulum"):
        scene["gravity"] = rng.choices(("earth", "moon", "none"), (65, 27, 8 if kind == "bounce" else 0))[0]
    if talks:
        scene["face"] = faces.draw_face(rng, frames / FPS - 0.15, held_out)
    elif kind != "quiet":
        _draw_objects(rng, scene, easy)
    return scene


def _draw_objects(rng, scene, easy):
    left, right, top = room(scene)
    kind = scene["kind"]
    count = {"collide": 2, "roll": 1, "pendulum": 1}.get(kind) or (1 if easy else rng.choices((1, 2, 3, 4), (35, 35, 18, 12))[0])
    shapes = {"collide": ["circle", "circle", "square"], "roll": ["circle"]}.get(kind, SHAPES)
    column = (right - left) / count
    for color in rng.sample(COLORS, count):
        shape = rng.choice(shapes)
        widest = column if kind != "collide" else column - 0.65  # Room to come from.
        fit = [s for s in RADIUS if 2 * HALF_WIDTH[shape] * RADIUS[s] + 0.08 <= widest] or ["small"]
        scene["objects"].append({"shape": shape, "color": color, "size": rng.choice(fit), "material": rng.choice(MATERIALS)})
    place = {"collide": _place_collision, "roll": _place_roll, "pendulum": _place_pendulum}.get(kind, _place_columns)
    place(rng, scene["objects"], left, right, top, matter.GRAVITY[scene["gravity"]])


def room(scene):
    """What is seen in every frame: left, right and top in metres."""
    w, h = scene["size"]
    width, top = SHORT_SIDE_M * w / min(w, h), SHORT_SIDE_M * h / min(w, h) - LINE_M
    if scene["camera"].startswith("pan"):
        return PAN_M / 2, width - PAN_M / 2, top
    if scene["camera"].startswith("zoom"):
        return width / 2 - width / 2 / ZOOM, width / 2 + width / 2 / ZOOM, top / ZOOM
    return 0.0, width, top


def _place_columns(rng, objects, left, right, top, g):
    column = (right - left) / len(objects)
    for i, o in enumerate(objects):
        radius = RADIUS[o["size"]]
        low, high = BOTTOM[o["shape"]] * radius + 0.5, top - TOP[o["shape"]] * radius - 0.05
        reach = max(0.0, min(0.3, column / 2 - HALF_WIDTH[o["shape"]] * radius - 0.04))
        start, end = (left + (i + 0.5) * column + rng.uniform(-reach, reach) for _ in range(2))
        toss = rng.uniform(0.4, 2.0) if rng.random() < 0.25 else 0.0
        o["y"] = round(rng.uniform(low + 0.5 * (high - low), high), 3)
        o["vy"] = round(min(toss, math.sqrt(2 * g * max(high - o["y"], 0.0))), 3)
        o["x"], o["vx"] = round(start, 3), round((end - start) / 3.1, 3)
        if not g:  # A body without weight drifts up or down slowly.
            o["vy"] = round(rng.uniform(-0.2, 0.0), 3)


def _place_collision(rng, objects, left, right, top, g):
    a, b = objects
    half, meet = (right - left) / 2, rng.uniform(0.6, 1.3)
    middle = (left + right) / 2 + rng.uniform(-0.1, 0.1)
    speeds = [rng.uniform(0.7, 1.5), 0.0 if rng.random() < 0.4 else rng.uniform(0.7, 1.5)]
    rng.shuffle(speeds)
    for o, side, v in ((a, 1, speeds[0]), (b, -1, speeds[1])):
        far = half - 2 * RADIUS[o["size"]] - 0.1
        o["vx"] = round(side * min(v, max(0.5, far / meet)) if v else 0.0, 3)
    reach = physics.reach_m(a, b)
    drop = 0.5 * physics.ROLL_DRAG * meet * meet
    o_a, o_b = (abs(o["vx"]) * meet - (drop if o["vx"] else 0.0) for o in objects)
    a["x"], b["x"] = round(middle - reach / 2 - o_a, 3), round(middle + reach / 2 + o_b, 3)
    for o in objects:
        o["y"], o["vy"] = round(matter.bottom_m(o), 4), 0.0


def _place_roll(rng, objects, left, right, top, g):
    o, side = objects[0], rng.choice((-1, 1))
    radius, v = RADIUS[o["size"]], rng.uniform(0.6, min(1.4, (right - left) / 2.4))
    o["x"] = round((left + radius + 0.1) if side > 0 else (right - radius - 0.1), 3)
    o["vx"], o["y"], o["vy"] = round(side * v, 3), round(matter.bottom_m(o), 4), 0.0


def _place_pendulum(rng, objects, left, right, top, g):
    o = objects[0]
    longest = min(top - 0.15 - 1.3 * RADIUS[o["size"]] - 0.3, 1.8)
    rod = round(rng.uniform(0.7, 1.0) * longest, 3)
    swing = min(0.6, math.asin(min(0.9, ((right - left) / 2 - 1.2 * RADIUS[o["size"]]) / rod)))
    o.update(x=round((left + right) / 2, 3), y=round(min(top - 0.1, rod + 1.3 * RADIUS[o["size"]] + 1.0), 3), vx=0.0, vy=0.0, rod=rod, swing=round(rng.choice((-1, 1)) * rng.uniform(0.7, 1.0) * swing, 3))


class View:
    """Metres to pixels at each time: `view(x, y)` and `view.scale`, arrays over the frames."""

    def __init__(self, scene, times):
        w, h = scene["size"]
        share = np.asarray(times) / ((scene["frames"] - 1) / scene["fps"])
        zoom = {"zoom_in": 1 + (ZOOM - 1) * share, "zoom_out": ZOOM - (ZOOM - 1) * share}.get(scene["camera"], np.ones_like(share))
        pan = PAN_M * {"pan_left": 0.5 - share, "pan_right": share - 0.5}.get(scene["camera"], np.zeros_like(share))
        self.scale, self.line = min(w, h) / SHORT_SIDE_M * zoom, h - LINE_M * min(w, h) / SHORT_SIDE_M
        self.left = pan + SHORT_SIDE_M * w / min(w, h) / 2 - w / 2 / self.scale

    def __call__(self, x, y):
        return (x - self.left) * self.scale, self.line - y * self.scale


def layout(scene, times=None):
    """Primitives [n, PRIMITIVES, 16] and backdrop rows [n, 12], f32."""
    times = np.arange(scene["frames"]) / scene["fps"] if times is None else np.asarray(times, np.float64)
    view = View(scene, times)
    rows = _body_rows(scene, times, view) if scene["objects"] else []
    if scene["face"]:
        width = SHORT_SIDE_M * scene["size"][0] / min(scene["size"])
        rows = list(faces.primitives(scene["face"], width / 2, times, view).swapaxes(0, 1))
    table = np.zeros((len(times), PRIMITIVES, 16), np.float32)
    for i, row in enumerate(rows):
        table[:, i] = row
    back = np.zeros((len(times), 12), np.float32)
    back[:, picture.STYLE], back[:, picture.BG] = STYLES.index(scene["style"]), BACKGROUNDS.index(scene["bg"])
    back[:, picture.MOON], back[:, picture.SEED], back[:, picture.TIME] = scene["gravity"] == "moon", scene["seed"] % 1000, times
    back[:, picture.PPM], back[:, picture.LEFT], back[:, picture.LINE] = view.scale, view.left, view.line
    back[:, picture.HORIZON] = view.line - HORIZON_M * view.scale
    return {"table": table, "back": back, "size": tuple(scene["size"])}


def paint(layouts, device="cpu"):
    table, back = (torch.from_numpy(np.stack([part[key] for part in layouts])) for key in ("table", "back"))
    return picture.paint(table, back, layouts[0]["size"], device)


def render(scene, times=None, with_mask=False):
    """Frames [n, h, w, 3] uint8, and the mask of objects [n, h, w] if asked."""
    frames, mask = (part[0].numpy() for part in paint([layout(scene, times)]))
    return (frames, mask) if with_mask else frames


def tracks(scene, times):
    """Centre of every object, [objects][n, 2] in metres."""
    if scene["kind"] == "pendulum":
        return [physics.pendulum(o, matter.GRAVITY[scene["gravity"]], times)[0] for o in scene["objects"]]
    return [physics.positions(p, times) for p in physics.motion(scene)[0]]


def _body_rows(scene, times, view):
    rows, bodies = [], []
    for o, centre in zip(scene["objects"], tracks(scene, times)):
        (x, y), r = view(centre[:, 0], centre[:, 1]), RADIUS[o["size"]] * view.scale
        lift = centre[:, 1] - matter.bottom_m(o)
        rows.append(picture.primitive(ROUND, x, view.line + 1.0, 1.1 * r, 0.055 * view.scale, color=(0, 0, 0), pattern=picture.INK,
                                      opacity=0.45 * np.clip(1 - lift / 1.5, 0.15, 1.0)))
        if scene["kind"] == "pendulum":
            rows.append(_rod(o, x, y, view))
        bodies.append(_body(o, x, y, r))
        if o["shape"] == "circle" and scene["kind"] in ("roll", "collide"):
            turn = -(centre[:, 0] - o["x"]) / RADIUS[o["size"]]
            dark = tuple(0.55 * v for v in matter.COLOR[o["color"]])
            bodies.append(picture.primitive(BOX, x, y, 0.62 * r, 0.07 * r, 0.05 * r, dark, angle=turn, pattern=picture.INK))
    return rows + bodies


def _rod(o, x, y, view):
    px, py = view(o["x"], o["y"])
    length, angle = np.hypot(x - px, y - py), np.arctan2(py - y, x - px)
    return picture.primitive(BOX, (x + px) / 2, (y + py) / 2, length / 2, 0.5, 0.4, (110, 100, 96), angle=angle, pattern=picture.INK)


def _body(o, x, y, r):
    kind, a, b, c = {
        "circle": (BOX, 0.0, 0.0, r), "square": (BOX, 0.9 * r, 0.9 * r, 0.0),
        "triangle": (FOLD, 3.0, math.pi / 3, 0.725 * r), "star": (FOLD, 5.0, STAR_TURN, matter.STAR_POINT * math.cos(STAR_TURN) * r)}[o["shape"]]
    opacity = 0.82 if o["material"] == "glass" else 1.0
    return picture.primitive(kind, x, y, a, b, c, matter.COLOR[o["color"]], opacity=opacity, pattern=picture.PATTERN_OF[o["material"]],
                             scale=r, body=1.0)


def _star_turn():
    """Angle between a point of the star and the normal of its edge: point cos(t) = notch cos(36 deg - t)."""
    along, side = math.cos(math.pi / 5) * matter.STAR_NOTCH, math.sin(math.pi / 5) * matter.STAR_NOTCH
    return math.atan2(matter.STAR_POINT - along, side)


STAR_TURN = _star_turn()


def sound(scene):
    return ring.waveform(scene)


def impacts_of(scene):
    """[(time, speed)] of every contact."""
    return [(t, v) for t, v, _ in contacts_of(scene)]


def contacts_of(scene):
    """[[time, speed of approach, [materials]]] in order of time."""
    if scene["kind"] not in ("bounce", "collide"):
        return []
    name = lambda i: scene["objects"][i]["material"]
    return [[round(c["t"], 4), round(c["speed"], 3), [name(i) for i in c["bodies"] if i is not None]] for c in physics.motion(scene)[1]]
