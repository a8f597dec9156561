"""What bodies of world T1 are: shapes, sizes, colours, materials, and how materials bounce and ring.

Units: metres, seconds, Hz. R is the radius of a size; shapes are drawn around it as in world T0, and a star has its
five points at 1.2 R and its notches at 0.55 R. A bounce between two bodies keeps sqrt(e1 e2) of the approach speed.
"""

import math

RADIUS = {"small": 0.20, "medium": 0.30, "big": 0.45}
BOTTOM = {"circle": 1.0, "square": 0.9, "triangle": 0.725, "star": 1.2 * math.sin(math.radians(54))}
TOP = {"circle": 1.0, "square": 0.9, "triangle": 1.45, "star": 1.2}
HALF_WIDTH = {"circle": 1.0, "square": 0.9, "triangle": 0.725 * math.sqrt(3.0), "star": 1.2 * math.cos(math.radians(18))}
STAR_POINT, STAR_NOTCH = 1.2, 0.55
GRAVITY = {"earth": 9.81, "moon": 1.635, "none": 0.0}
RESTITUTION = {"rubber": 0.8, "wood": 0.45, "metal": 0.6, "glass": 0.5, "stone": 0.35}
# material: f1 for R = 0.4 m, ratios, weights, decay times. Each lies in a band, or decays, as no other does.
MODES = {
    "rubber": (150.0, (1.0, 1.9, 2.8), (0.6, 0.3, 0.1), (0.05, 0.035, 0.02)),
    "wood": (480.0, (1.0, 2.4, 4.1), (0.5, 0.3, 0.2), (0.07, 0.04, 0.025)),
    "metal": (900.0, (1.0, 2.1, 3.4, 4.8), (0.4, 0.3, 0.2, 0.1), (0.45, 0.3, 0.2, 0.12)),
    "glass": (1900.0, (1.0, 1.5, 2.2), (0.5, 0.3, 0.2), (0.16, 0.12, 0.08)),
    "stone": (330.0, (1.0, 1.35, 3.1, 5.3, 7.7), (0.25, 0.2, 0.2, 0.2, 0.15), (0.016, 0.014, 0.012, 0.01, 0.008)),
}
COLOR = {
    "red": (215, 35, 40), "green": (40, 165, 60), "blue": (35, 65, 225), "yellow": (250, 220, 45),
    "purple": (160, 45, 200), "orange": (245, 130, 20), "pink": (250, 120, 180), "cyan": (30, 200, 215),
}
SHAPES, COLORS, MATERIALS, SIZES = list(BOTTOM), list(COLOR), list(MODES), list(RADIUS)


def bottom_m(o):
    """From the centre down to the lowest point."""
    return BOTTOM[o["shape"]] * RADIUS[o["size"]]


def bounce_of(a, b):
    return math.sqrt(RESTITUTION[a["material"]] * RESTITUTION[b["material"]])
