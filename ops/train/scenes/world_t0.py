"""Procedural scenes: the whole world of the built-in model, in closed form.

One seed gives one scene (a small JSON object, the DSL), and a scene gives frames, sound and
ground truth. Nothing else is random: the same DSL gives the same pixels and samples, so this text is
enough to write the renderer again in another language.

UNITS. Metres and seconds. The short side of the picture is SHORT_SIDE_M = 3 m, so there are
ppm = min(width, height) / 3 pixels in a metre in every size. x runs right from the left edge,
y runs up from the contact line. Pixel (col, row) has its centre at (col + 0.5, row + 0.5); the
contact line is at row H - 6 and the horizon at row H - 12 (in pixels from the top, for any size).
A point (x, y) is drawn at column x * ppm, row (H - 6) - y * ppm. Frame i shows time i / fps.

DSL.
    {"seed", "size": [w, h], "frames", "fps", "bg": day|night|plain, "gravity": earth|moon,
     "objects": [{"shape": circle|square|triangle, "color", "size": small|big, "material",
                  "x", "y", "vx", "vy"}]}      x, y: centre at time 0; vx, vy: velocity at time 0

SIZE AND SHAPE. R = 0.30 m (small), 0.51 m (big). With (dx, dy) the offset from the centre, y up,
in pixels, and r = R * ppm, the signed distance (negative inside, pixels) is
    circle    sqrt(dx^2 + dy^2) - r                                       bottom b = R
    square    max(|dx|, |dy|) - 0.9 r                                     bottom b = 0.9 R
    triangle  upright, equilateral, circumradius 1.45 r:
              max(-dy, dy/2 + |dx| * sqrt(3)/2) - 0.725 r                 bottom b = 0.725 R
Bodies do not rotate. b is the distance from the centre to the lowest point.

PHYSICS. g = 9.81 (earth) or 1.635 (moon). Free flight: x += vx dt, y += vy dt - g dt^2 / 2.
Contact when y = b: impact speed v = sqrt(vy^2 + 2 g (y - b)), dt = (vy + v) / g.
After a contact: vy = e v and vx = 0.8 vx with restitution e = 0.8 rubber, 0.45 wood, 0.6 metal;
if e v < 0.35 m/s the body rests there for ever (vx = vy = 0). At most 64 contacts an object.
Every contact makes a sound, the last one too. The two objects of a clip never touch.

PICTURE. RGB 0..255 computed in floats, layers from back to front, cover(d) = clamp(0.5 - d, 0, 1):
 1. sky: lerp(SKY[bg].top, SKY[bg].bottom, (row + 0.5) / (H - 12)); from the horizon down (row + 0.5 >
    H - 12) GROUND[gravity][bg].
 2. shadow of every object: an ellipse centred at (x, contact line) with half axes A = 1.1 r and B = 2 px;
    q = sqrt((dx/A)^2 + (dy/B)^2), opacity 0.5 * max(0.15, 1 - (y - b)/1.5) * cover((q - 1) * B), black.
 3. objects in list order, opacity cover(d). Colour = COLOR, and
    wood: times 0.72 where |dy| < 0.2 r (hard edge, in the same pixel units);
    metal: mixed to white, opacity 0.75 * cover(distance to (-0.3 r, +0.3 r) - 0.25 r)
    (for the triangle the spot is at (-0.1 r, +0.1 r)).
Written as round(rgb) in 0..255.

SOUND. 16 kHz mono. A contact of a body at time tc with speed v adds for t >= tc
    0.6 * min(1, v / 8) * sum_k w_k exp(-(t - tc) / tau_k) sin(2 pi f_k (t - tc)),
    f_k = ratio_k * f1 * 0.4 / R
with the MODES table below; sample n is at t = n / 16000; the sum is clamped to [-1, 1].
Length of a clip: round(frames / fps * 16000) samples.

START. A clip of n objects has n columns of equal width, one body each. A body starts within OFF_CENTRE_M of the
middle of its column, drifts slowly, and starts in the upper half of its free height: where it is and when it lands
follow closely from the caption, so that a model of a few million values can learn all of it in hours.

HOLD-OUTS. No training scene has a blue triangle or a metal square. Training seeds are below
VALIDATION_SEED, validation seeds start there.
"""

import math
import random

import numpy as np
import torch

from .captions_t0 import caption, caption_of_seed, known_words  # noqa: F401  Part of the world.

SHORT_SIDE_M = 3.0
CONTACT_ROW, HORIZON_ROW = 6, 12  # Pixels above the bottom edge.
FPS, RATE = 16, 16000
SIZES = [(64, 64), (112, 64), (64, 112)]
FRAMES_MAX = 65
VALIDATION_SEED = 1 << 31
READY = """It knows one or two falling and bouncing bodies.
More than two bodies, collisions between bodies, cameras, people, speech, text and styles are not in it."""
# Where a body starts: at most this far from the middle of its column, above this share of its free height; share tossed up.
OFF_CENTRE_M, START_HEIGHT, TOSSED = 0.3, 0.5, 0.25
HELD_OUT = {("blue", "triangle"), ("metal", "square")}

RADIUS = {"small": 0.30, "big": 0.51}
BOTTOM = {"circle": 1.0, "square": 0.9, "triangle": 0.725}
TOP = {"circle": 1.0, "square": 0.9, "triangle": 1.45}
HALF_WIDTH = {"circle": 1.0, "square": 0.9, "triangle": 0.725 * math.sqrt(3.0)}
GRAVITY = {"earth": 9.81, "moon": 1.635}
RESTITUTION = {"rubber": 0.8, "wood": 0.45, "metal": 0.6}
REST_SPEED, FRICTION, CONTACTS_MAX = 0.35, 0.8, 64
# material: f1 in Hz for R = 0.4 m, ratios, weights, decay times in seconds.
MODES = {
    "rubber": (150.0, (1.0, 1.9, 2.8), (0.6, 0.3, 0.1), (0.05, 0.035, 0.02)),
    "wood": (480.0, (1.0, 2.4, 4.1), (0.5, 0.3, 0.2), (0.07, 0.04, 0.025)),
    "metal": (1100.0, (1.0, 2.1, 3.4, 4.8), (0.4, 0.3, 0.2, 0.1), (0.45, 0.3, 0.2, 0.12)),
}
COLOR = {
    "red": (215, 35, 40), "green": (40, 165, 60), "blue": (35, 65, 225),
    "yellow": (250, 220, 45), "purple": (175, 50, 190), "orange": (245, 130, 20),
}
SKY = {
    "day": ((140, 195, 240), (205, 230, 245)),
    "night": ((14, 16, 40), (36, 38, 72)),
    "plain": ((196, 196, 196), (214, 214, 214)),
}
GROUND = {
    "earth": {"day": (196, 172, 128), "night": (58, 50, 50), "plain": (160, 142, 122)},
    "moon": {"day": (168, 168, 176), "night": (86, 86, 96), "plain": (118, 118, 124)},
}
SHAPES, COLORS, MATERIALS = list(BOTTOM), list(COLOR), list(MODES)
BACKGROUNDS, GRAVITIES = list(SKY), list(GRAVITY)


def is_held_out(o):
    return (o["color"], o["shape"]) in HELD_OUT or (o["material"], o["shape"]) in HELD_OUT


def draw_scene(seed, count=None, size=None, held_out=False, frames=FRAMES_MAX):
    """The scene of a seed. `count` and `size` fix what the seed would otherwise choose."""
    rng = random.Random(seed)
    size = size or rng.choices(SIZES, (60, 20, 20))[0]
    count = count or rng.choice((1, 2))
    scene = {"seed": seed, "size": list(size), "frames": frames, "fps": FPS,
             "bg": rng.choice(BACKGROUNDS), "gravity": rng.choices(GRAVITIES, (65, 35))[0], "objects": []}
    width_m = size[0] * SHORT_SIDE_M / min(size)
    top_m = (size[1] - CONTACT_ROW) * SHORT_SIDE_M / min(size)
    g, column = GRAVITY[scene["gravity"]], width_m / count
    kinds = _kinds(rng, count, held_out)
    for i, o in enumerate(kinds):
        _place(rng, o, i * column, column, top_m, g)
        scene["objects"].append(o)
    return scene


def _kinds(rng, count, held_out):
    kinds = [_kind(rng, held_out)]
    if count == 2:  # Half of the pairs are twins ("two green cubes").
        kinds.append(dict(kinds[0]) if rng.random() < 0.5 else _kind(rng, False))
    return kinds


def _kind(rng, held_out):
    while True:
        o = {"shape": rng.choice(SHAPES), "color": rng.choice(COLORS), "size": rng.choice(list(RADIUS)),
             "material": rng.choice(MATERIALS)}
        if is_held_out(o) == held_out:
            return o


def _place(rng, o, left, column, top_m, g):
    """Draws the start near the middle of its column and in the upper part of the free height."""
    radius = RADIUS[o["size"]]
    low, high = BOTTOM[o["shape"]] * radius + 0.6, top_m - TOP[o["shape"]] * radius - 0.05
    o["y"] = round(rng.uniform(low + START_HEIGHT * (high - low), high), 3)
    reach = min(OFF_CENTRE_M, column / 2 - HALF_WIDTH[o["shape"]] * radius - 0.05)
    start, end = (left + column / 2 + rng.uniform(-reach, reach) for _ in range(2))
    toss = rng.uniform(0.4, 2.0) if rng.random() < TOSSED else 0.0
    o["vy"] = round(min(toss, math.sqrt(2 * g * max(high - o["y"], 0.0))), 3)
    # At most 4.1 s of motion, so the body cannot leave its column.
    o["vx"] = round((end - start) / 4.1, 3)
    o["x"] = round(start, 3)


def flights(o, gravity, until):
    """Pieces of free flight: (t0, x, y, vx, vy, g), g = 0 for rest; and contacts (t, impact speed)."""
    g, b, e = GRAVITY[gravity], BOTTOM[o["shape"]] * RADIUS[o["size"]], RESTITUTION[o["material"]]
    t, x, y, vx, vy = 0.0, o["x"], o["y"], o["vx"], o["vy"]
    pieces, contacts = [(t, x, y, vx, vy, g)], []
    while len(contacts) < CONTACTS_MAX:
        v = math.sqrt(vy * vy + 2 * g * (y - b))
        dt = (vy + v) / g
        t, x, y = t + dt, x + vx * dt, b
        if t >= until:
            break
        contacts.append((t, v))
        vx, vy = FRICTION * vx, e * v
        if vy < REST_SPEED:
            pieces.append((t, x, y, 0.0, 0.0, 0.0))
            break
        pieces.append((t, x, y, vx, vy, g))
    return pieces, contacts


def positions(o, gravity, times):
    """Centres [n, 2] in metres at the given times (sorted or not)."""
    times = np.asarray(times, np.float64)
    pieces, _ = flights(o, gravity, float(times.max()) + 1e-9)
    p = np.array(pieces)
    row = p[np.searchsorted(p[:, 0], times, side="right") - 1]
    dt = times - row[:, 0]
    return np.stack([row[:, 1] + row[:, 3] * dt, row[:, 2] + row[:, 4] * dt - 0.5 * row[:, 5] * dt * dt], 1)


def contacts_of(scene):
    """[[object index, time, impact speed]] in order of time."""
    until = scene["frames"] / scene["fps"]
    found = [[i, round(t, 4), round(v, 3)] for i, o in enumerate(scene["objects"])
             for t, v in flights(o, scene["gravity"], until)[1]]
    return sorted(found, key=lambda c: c[1])


def _distance(shape, dx, dy, r):
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - r
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - np.float32(0.9 * r)
    return np.maximum(-dy, dy * 0.5 + np.abs(dx) * np.float32(math.sqrt(3) / 2)) - np.float32(0.725 * r)


def _cover(d):
    return np.clip(0.5 - d, 0.0, 1.0)


def render(scene, times=None, with_mask=False):
    """Frames [n, h, w, 3] uint8, and the mask of objects [n, h, w] (dilated by 2 px) if asked."""
    w, h = scene["size"]
    times = np.arange(scene["frames"]) / scene["fps"] if times is None else np.asarray(times, np.float64)
    n, ppm, line = len(times), min(w, h) / SHORT_SIDE_M, h - CONTACT_ROW
    cols = (np.arange(w, dtype=np.float32) + 0.5)[None, None, :]
    rows = (np.arange(h, dtype=np.float32) + 0.5)[None, :, None]
    img = np.broadcast_to(_backdrop(scene, h)[None, :, None, :], (n, h, w, 3)).astype(np.float32)
    mask = np.zeros((n, h, w), bool)
    placed = []
    for o in scene["objects"]:
        c = positions(o, scene["gravity"], times).astype(np.float32)
        r = RADIUS[o["size"]] * ppm
        dx = cols - (c[:, 0] * ppm)[:, None, None]
        placed.append((o, c, r, dx))
        _shadow(img, o, c, r, dx, rows, line, with_mask, mask)
    for o, c, r, dx in placed:
        dy = (line - c[:, 1] * ppm)[:, None, None].astype(np.float32) - rows
        d = _distance(o["shape"], dx, dy, r)
        a = _cover(d)[..., None]
        img += a * (_paint(o, dx, dy, r) - img)
        if with_mask:
            mask |= d < 2.0
    img = np.rint(img).astype(np.uint8)
    return (img, mask) if with_mask else img


def _backdrop(scene, h):
    rows = np.arange(h) + 0.5
    top, bottom = (np.array(c, np.float64) for c in SKY[scene["bg"]])
    sky = top + (bottom - top) * (rows / (h - HORIZON_ROW))[:, None]
    ground = np.array(GROUND[scene["gravity"]][scene["bg"]], np.float64)
    return np.where((rows > h - HORIZON_ROW)[:, None], ground, sky)


def _shadow(img, o, c, r, dx, rows, line, with_mask, mask):
    a, b = 1.1 * r, 2.0
    band = slice(line - 3, line + 3)
    q = np.sqrt((dx / a) ** 2 + ((line - rows[:, band]) / b) ** 2)
    height = np.clip(1 - (c[:, 1] - BOTTOM[o["shape"]] * RADIUS[o["size"]]) / 1.5, 0.15, None)
    dark = _cover((q - 1) * b) * (0.5 * height)[:, None, None]
    img[:, band] *= (1 - dark)[..., None]
    if with_mask:
        mask[:, band] |= dark > 0.05


def _paint(o, dx, dy, r):
    color = np.array(COLOR[o["color"]], np.float32)
    if o["material"] == "wood":
        return np.where((np.abs(dy) < 0.2 * r)[..., None], color * np.float32(0.72), color)
    if o["material"] == "metal":
        k = np.float32(0.1 if o["shape"] == "triangle" else 0.3) * np.float32(r)
        spot = 0.75 * _cover(np.sqrt((dx + k) ** 2 + (dy - k) ** 2) - np.float32(0.25 * r))[..., None]
        return color + spot * (255 - color)
    return color


def sound(scene):
    """Waveform [samples] float32 in [-1, 1]."""
    n = round(scene["frames"] / scene["fps"] * RATE)
    wave, t = np.zeros(n), np.arange(n) / RATE
    for i, tc, v in _exact_contacts(scene):
        o = scene["objects"][i]
        f1, ratios, weights, taus = MODES[o["material"]]
        first = math.ceil(tc * RATE)
        dt = t[first:] - tc
        gain = 0.6 * min(1.0, v / 8.0)
        for ratio, weight, tau in zip(ratios, weights, taus):
            stop = min(len(dt), int(tau * 14 * RATE))  # exp(-14) is below one part in a million.
            f = ratio * f1 * 0.4 / RADIUS[o["size"]]
            wave[first:first + stop] += gain * weight * np.exp(-dt[:stop] / tau) * np.sin(2 * math.pi * f * dt[:stop])
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def _exact_contacts(scene):
    until = scene["frames"] / scene["fps"]
    return [(i, t, v) for i, o in enumerate(scene["objects"]) for t, v in flights(o, scene["gravity"], until)[1]]


def training_scene(rng, size, easy=False):
    """A scene of a random training seed, of one body if it is to be easy."""
    return draw_scene(int(rng.integers(VALIDATION_SEED)), size=size, count=1 if easy else int(rng.choice((1, 2))))


def impacts_of(scene):
    """[(time, speed)] of every contact."""
    return [(t, v) for _, t, v in contacts_of(scene)]


def layout(scene, times):
    """Pictures are cheap here, so the layout is the painted clip already."""
    frames, mask = render(scene, times, with_mask=True)
    return {"frames": frames, "mask": mask}


def paint(layouts, device="cpu"):
    stacked = (torch.from_numpy(np.stack([part[key] for part in layouts])).to(device) for key in ("frames", "mask"))
    return tuple(stacked)
