"""How bodies of world T1 move, in closed form between contacts: bounce, roll, collide, pendulum.

Each motion is `pieces` of constant acceleration, (t0, x, y, vx, vy, ax, ay), and `contacts`: dicts with the time, the
speed of approach and the bodies that meet (a second body of None is the floor). Contact times are roots of
quadratics, so they are exact, and no kinetic or potential energy is ever made: e <= 1 and friction only takes.
"""

import math

import numpy as np

from . import matter

REST_SPEED, FRICTION, CONTACTS_MAX, ROLL_DRAG = 0.35, 0.8, 64, 0.1


def motion(scene):
    """(pieces of every object, contacts in order of time) until the end of the clip."""
    until = scene["frames"] / scene["fps"]
    make = {"collide": _collide, "roll": _roll}.get(scene["kind"], _bounce)
    pieces, contacts = make(scene["objects"], matter.GRAVITY[scene["gravity"]], until)
    return pieces, sorted(contacts, key=lambda c: c["t"])


def positions(pieces, times):
    """Centres [n, 2] in metres."""
    p = np.array(pieces)
    row = p[np.maximum(np.searchsorted(p[:, 0], times, side="right") - 1, 0)]
    dt = np.asarray(times) - row[:, 0]
    return np.stack([row[:, 1] + row[:, 3] * dt + 0.5 * row[:, 5] * dt * dt, row[:, 2] + row[:, 4] * dt + 0.5 * row[:, 6] * dt * dt], 1)


def speeds(pieces, times):
    """Velocities [n, 2] in metres a second."""
    p = np.array(pieces)
    row = p[np.maximum(np.searchsorted(p[:, 0], times, side="right") - 1, 0)]
    dt = np.asarray(times) - row[:, 0]
    return np.stack([row[:, 3] + row[:, 5] * dt, row[:, 4] + row[:, 6] * dt], 1)


def _bounce(objects, g, until):
    """Bodies in columns of their own: free flight and the floor. Without gravity they drift on."""
    all_pieces, contacts = [], []
    for i, o in enumerate(objects):
        b, e = matter.bottom_m(o), matter.RESTITUTION[o["material"]]
        t, x, y, vx, vy = 0.0, o["x"], o["y"], o["vx"], o["vy"]
        pieces = [(t, x, y, vx, vy, 0.0, -g)]
        for _ in range(CONTACTS_MAX if g else 0):
            v = math.sqrt(vy * vy + 2 * g * max(y - b, 0.0))
            dt = (vy + v) / g
            t, x, y = t + dt, x + vx * dt, b
            if t >= until:
                break
            contacts.append({"t": t, "speed": v, "bodies": [i, None]})
            vx, vy = FRICTION * vx, e * v
            if vy < REST_SPEED:
                pieces.append((t, x, y, 0.0, 0.0, 0.0, 0.0))
                break
            pieces.append((t, x, y, vx, vy, 0.0, -g))
        all_pieces.append(pieces)
    return all_pieces, contacts


def _slide(t, x, y, v, until):
    """Rolling with constant drag until it stops."""
    stop = t + abs(v) / ROLL_DRAG
    pieces = [(t, x, y, v, 0.0, -math.copysign(ROLL_DRAG, v) if v else 0.0, 0.0)]
    if v and stop < until:
        pieces.append((stop, x + v * abs(v) / ROLL_DRAG / 2, y, 0.0, 0.0, 0.0, 0.0))
    return pieces


def _roll(objects, g, until):
    o = objects[0]
    return [_slide(0.0, o["x"], matter.bottom_m(o), o["vx"], until)], []


def reach_m(a, b):
    """Distance of the centres along the floor at which two bodies meet."""
    ra, rb = matter.bottom_m(a), matter.bottom_m(b)
    both_round = a["shape"] == b["shape"] == "circle"
    return 2 * math.sqrt(ra * rb) if both_round else matter.HALF_WIDTH[a["shape"]] * matter.RADIUS[a["size"]] + matter.HALF_WIDTH[b["shape"]] * matter.RADIUS[b["size"]]


def _collide(objects, g, until):
    """Two bodies roll or slide towards each other; masses go with the square of the radius."""
    a, b = objects
    mass = [matter.RADIUS[o["size"]] ** 2 for o in objects]
    t = _meeting(a, b, reach_m(a, b))
    pieces = [_slide(0.0, o["x"], matter.bottom_m(o), o["vx"], until) for o in objects]
    if t is None or t >= until:
        return pieces, []
    at, v = (np.array([f(p, [t])[0, 0] for p in pieces]) for f in (positions, speeds))
    speed, e = v[0] - v[1], matter.bounce_of(a, b)
    push = (1 + e) * speed * mass[0] * mass[1] / sum(mass)
    after = (v[0] - push / mass[0], v[1] + push / mass[1])
    pieces = [[p for p in mine if p[0] < t] + _slide(t, x, matter.bottom_m(o), float(w), until)
              for mine, x, w, o in zip(pieces, at, after, objects)]
    return pieces, [{"t": float(t), "speed": float(speed), "bodies": [0, 1]}]


def _meeting(a, b, reach):
    """First time at which b is `reach` to the right of a; both brake with the same drag or stand."""
    gap, closing = b["x"] - a["x"] - reach, a["vx"] - b["vx"]
    drag = ROLL_DRAG * ((a["vx"] > 0) + (b["vx"] < 0))
    inside = closing * closing - 2 * drag * gap
    if closing <= 0 or inside < 0:
        return None
    return (closing - math.sqrt(inside)) / drag if drag else gap / closing


def pendulum(o, g, times):
    """Bob centres [n, 2] and angles [n] of a mathematical pendulum of small swings, and the angle's speed."""
    omega = math.sqrt(g / o["rod"])
    angle = o["swing"] * np.cos(omega * np.asarray(times))
    turn = -o["swing"] * omega * np.sin(omega * np.asarray(times))
    return np.stack([o["x"] + o["rod"] * np.sin(angle), o["y"] - o["rod"] * np.cos(angle)], 1), angle, turn
