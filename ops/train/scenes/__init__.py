"""The worlds that the variants of the model learn, one module each; `of(variant)` gives it.

A world is a module with
    SIZES, FRAMES_MAX, FPS, RATE       pixels (width, height), longest clip, frames and samples a second
    VALIDATION_SEED                    training draws seeds below it, validation and evaluation from it on
    draw_scene(seed, size=None, ...)   one seed -> one scene, a small JSON object (the DSL)
    training_scene(rng, size, easy)    a scene of a random training seed; easy ones teach the words one by one
    layout(scene, times)               what has to be painted at those times, as arrays; cheap, made by feeders on CPUs
    paint(layouts, device)             frames uint8 [B, n, h, w, 3] and where objects are, bool [B, n, h, w]
    sound(scene)                       waveform [samples] float32 in [-1, 1]
    contacts_of(scene), impacts_of(scene)   ground truth of the sounds of impacts; their (time, speed) alone
    caption(scene, rng, full=False)    one caption; with `full` every attribute is named
    known_words()                      every word that a caption can hold
    READY                              what the world holds, for the model card
"""

import importlib

WORLDS = {"t0": "world_t0", "t1": "world_t1"}


def of(variant):
    return importlib.import_module(f"{__name__}.{WORLDS[variant]}")
