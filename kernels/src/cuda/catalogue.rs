//! Every kernel there is: which sources make a module, for which cards, how they are compiled.

/// Architectures that cubins are made for.
pub const ARCHS: &[&str] = &["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// Cards that a module runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cards {
    /// All since sm_80.
    All,
    /// Compute capability 9.0 alone: wgmma and TMA.
    Hopper,
}

impl Cards {
    /// Whether the module is compiled for an architecture.
    pub fn include(self, arch: &str) -> bool {
        self == Self::All || arch == "sm_90a"
    }
}

/// The architecture whose cubins a card runs; none for cards before 8.0.
pub fn arch_of((major, minor): (u32, u32)) -> Option<&'static str> {
    match (major, minor) {
        (8, 0) => Some("sm_80"),
        (8, 9) => Some("sm_89"),
        (8, _) => Some("sm_86"),
        (9, _) => Some("sm_90a"),
        (10, _) => Some("sm_100"),
        (12, _) => Some("sm_120"),
        _ => None,
    }
}

/// Type that activations have in a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// float
    F32,
    /// bf16
    BF16,
}

/// Sources that are compiled together.
#[derive(Debug)]
pub struct Module {
    /// Name in launches, budgets and packs.
    pub name: &'static str,
    /// Type of activations.
    pub act: Act,
    /// Constants put before the sources.
    pub constants: &'static [(&'static str, u32)],
    /// Source files in order.
    pub parts: &'static [&'static str],
    /// Kernels in it.
    pub entries: &'static [&'static str],
    /// Where it runs.
    pub cards: Cards,
    /// Whether division, roots and exponentials may be approximate.
    pub fast_math: bool,
}

impl Module {
    /// The module of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        MODULES.iter().find(|module| module.name == name)
    }
}

const NORM: &str = include_str!("../norm/norm_modulate.cu");
const ROPE: &str = include_str!("../rope/qk_norm_rope.cu");
const MODULATION: &str = include_str!("../modulation/modulation.cu");
const SAMPLING: &str = include_str!("../sampling/sampling.cu");
const ACTIVATION: &str = include_str!("../activation/activation.cu");
const COPY: &str = include_str!("../copy/copy.cu");
const PIXEL_NORM: &str = include_str!("../pixel_norm/pixel_norm.cu");
const SPACE_DEPTH: &str = include_str!("../space_depth/space_depth.cu");
const SNAKE: &str = include_str!("../snake/snake.cu");
const GROUP_NORM: &str = include_str!("../group_norm/group_norm.cu");
const STFT_MEL: &str = include_str!("../stft_mel/stft_mel.cu");
const MMA_TILE: &str = include_str!("source/mma_tile.cuh");
const LINEAR: &str = include_str!("../linear/linear.cu");
const CONV: &str = include_str!("../conv/conv.cu");
const CONV_HOPPER: &str = include_str!("../conv/conv_hopper.cu");
const ATTENTION_MMA: &str = include_str!("../attention/attention_mma.cu");
const ATTENTION_HOPPER: &str = include_str!("../attention/attention_hopper.cu");

const NORM_ENTRIES: &[&str] = &["norm_modulate", "norm_modulate_wide"];
const ROPE_ENTRIES: &[&str] = &[
    "qk_norm_rope_pairs",
    "qk_norm_rope_pairs_wide",
    "qk_norm_rope",
];
const PIXEL_ENTRIES: &[&str] = &["pixel_norm", "pixel_norm_wide"];
const MODULATION_ENTRIES: &[&str] = &["gated_residual", "ada_table", "timestep_embed", "head_gate"];
const SAMPLING_ENTRIES: &[&str] = &["guidance_sums", "guidance_step", "axpby", "count_nonfinite"];
const COPY_ENTRIES: &[&str] = &[
    "float_to_bf16",
    "bf16_to_float",
    "gather_rows",
    "average",
    "to_frames",
    "random_fill",
];
const SPACE_ENTRIES: &[&str] = &[
    "depth_to_space",
    "depth_to_space_by8",
    "space_to_depth",
    "patchify",
    "unpatchify",
    "upsample_nearest",
    "mirror_border",
];
const SNAKE_ENTRIES: &[&str] = &["snake", "upsample1d", "downsample1d"];
const GROUP_ENTRIES: &[&str] = &["group_sums", "group_statistics", "group_apply"];
const STFT_ENTRIES: &[&str] = &["stft_magnitude", "stft_mel"];

const fn module(
    name: &'static str,
    act: Act,
    parts: &'static [&'static str],
    entries: &'static [&'static str],
    fast_math: bool,
) -> Module {
    Module {
        name,
        act,
        constants: &[],
        parts,
        entries,
        cards: Cards::All,
        fast_math,
    }
}

const fn attention_mma(name: &'static str, constants: &'static [(&'static str, u32)]) -> Module {
    Module {
        name,
        act: Act::BF16,
        constants,
        parts: &[ATTENTION_MMA],
        entries: &["attention_mma"],
        cards: Cards::All,
        fast_math: true,
    }
}

const fn attention_hopper(name: &'static str, constants: &'static [(&'static str, u32)]) -> Module {
    Module {
        parts: &[ATTENTION_HOPPER],
        entries: &["attention_hopper"],
        cards: Cards::Hopper,
        ..attention_mma(name, constants)
    }
}

const fn conv_hopper(
    name: &'static str,
    act: Act,
    constants: &'static [(&'static str, u32)],
) -> Module {
    Module {
        name,
        act,
        constants,
        parts: &[CONV_HOPPER],
        entries: &["conv_hopper"],
        cards: Cards::Hopper,
        fast_math: true,
    }
}

/// Tiles of 128 positions by 256 channels.
const CONV_WIDE: &[(&str, u32)] = &[("HEIGHT", 1), ("BLOCK_N", 256)];
/// Tiles of 256 positions by 128 channels.
const CONV_TALL: &[(&str, u32)] = &[("HEIGHT", 2), ("BLOCK_N", 128)];

/// All modules. Rotations, embeddings, the sampler and the vocoder are compiled without fast maths.
pub static MODULES: &[Module] = &[
    module("norm_bf16", Act::BF16, &[NORM], NORM_ENTRIES, true),
    module("norm_f32", Act::F32, &[NORM], NORM_ENTRIES, false),
    module("rope_bf16", Act::BF16, &[ROPE], ROPE_ENTRIES, false),
    module("rope_f32", Act::F32, &[ROPE], ROPE_ENTRIES, false),
    module(
        "modulation_bf16",
        Act::BF16,
        &[MODULATION],
        MODULATION_ENTRIES,
        false,
    ),
    module(
        "modulation_f32",
        Act::F32,
        &[MODULATION],
        MODULATION_ENTRIES,
        false,
    ),
    module(
        "sampling_bf16",
        Act::BF16,
        &[SAMPLING],
        SAMPLING_ENTRIES,
        false,
    ),
    module(
        "sampling_f32",
        Act::F32,
        &[SAMPLING],
        SAMPLING_ENTRIES,
        false,
    ),
    module(
        "activation_bf16",
        Act::BF16,
        &[ACTIVATION],
        &["activation"],
        false,
    ),
    module(
        "activation_f32",
        Act::F32,
        &[ACTIVATION],
        &["activation"],
        false,
    ),
    module("copy_bf16", Act::BF16, &[COPY], COPY_ENTRIES, false),
    module("copy_f32", Act::F32, &[COPY], COPY_ENTRIES, false),
    module(
        "pixel_norm_bf16",
        Act::BF16,
        &[PIXEL_NORM],
        PIXEL_ENTRIES,
        true,
    ),
    module(
        "pixel_norm_f32",
        Act::F32,
        &[PIXEL_NORM],
        PIXEL_ENTRIES,
        false,
    ),
    module(
        "space_depth_bf16",
        Act::BF16,
        &[SPACE_DEPTH],
        SPACE_ENTRIES,
        false,
    ),
    module(
        "space_depth_f32",
        Act::F32,
        &[SPACE_DEPTH],
        SPACE_ENTRIES,
        false,
    ),
    module("snake", Act::F32, &[SNAKE], SNAKE_ENTRIES, false),
    module(
        "group_norm_bf16",
        Act::BF16,
        &[GROUP_NORM],
        GROUP_ENTRIES,
        false,
    ),
    module(
        "group_norm_f32",
        Act::F32,
        &[GROUP_NORM],
        GROUP_ENTRIES,
        false,
    ),
    module("stft_mel", Act::F32, &[STFT_MEL], STFT_ENTRIES, false),
    module(
        "linear_bf16",
        Act::BF16,
        &[MMA_TILE, LINEAR],
        &["linear"],
        true,
    ),
    module(
        "linear_f32",
        Act::F32,
        &[MMA_TILE, LINEAR],
        &["linear"],
        true,
    ),
    module("conv_bf16", Act::BF16, &[MMA_TILE, CONV], &["conv"], true),
    module("conv_f32", Act::F32, &[MMA_TILE, CONV], &["conv"], true),
    conv_hopper("conv_hopper_wide_bf16", Act::BF16, CONV_WIDE),
    conv_hopper("conv_hopper_wide_f32", Act::F32, CONV_WIDE),
    conv_hopper("conv_hopper_tall_bf16", Act::BF16, CONV_TALL),
    conv_hopper("conv_hopper_tall_f32", Act::F32, CONV_TALL),
    attention_mma("attention_mma_64", &[("HEAD", 64), ("LISTS", 0)]),
    attention_mma("attention_mma_128", &[("HEAD", 128), ("LISTS", 0)]),
    attention_mma("attention_mma_256", &[("HEAD", 256), ("LISTS", 0)]),
    attention_mma("attention_mma_64_lists", &[("HEAD", 64), ("LISTS", 1)]),
    attention_mma("attention_mma_128_lists", &[("HEAD", 128), ("LISTS", 1)]),
    attention_mma("attention_mma_256_lists", &[("HEAD", 256), ("LISTS", 1)]),
    attention_hopper(
        "attention_hopper_64",
        &[
            ("HEAD", 64),
            ("BLOCK_K", 128),
            ("CONSUMERS", 3),
            ("KEY_STAGES", 2),
        ],
    ),
    attention_hopper(
        "attention_hopper_64_deep",
        &[
            ("HEAD", 64),
            ("BLOCK_K", 128),
            ("CONSUMERS", 3),
            ("KEY_STAGES", 4),
        ],
    ),
    attention_hopper(
        "attention_hopper_128",
        &[
            ("HEAD", 128),
            ("BLOCK_K", 128),
            ("CONSUMERS", 2),
            ("KEY_STAGES", 2),
        ],
    ),
    attention_hopper(
        "attention_hopper_128_wide",
        &[
            ("HEAD", 128),
            ("BLOCK_K", 176),
            ("CONSUMERS", 2),
            ("KEY_STAGES", 2),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_entry_is_in_its_source() {
        for (index, module) in MODULES.iter().enumerate() {
            assert!(
                MODULES[..index]
                    .iter()
                    .all(|other| other.name != module.name)
            );
            let source = module.parts.concat();
            let kernels = source.matches("KERNEL(").count();
            assert_eq!(kernels, module.entries.len(), "{}", module.name);
            for entry in module.entries {
                assert!(source.contains(&format!("{entry}(")), "{entry}");
            }
        }
    }

    #[test]
    fn every_card_since_8_0_has_cubins_and_older_ones_have_none() {
        for capability in [
            (8, 0),
            (8, 6),
            (8, 7),
            (8, 9),
            (9, 0),
            (10, 0),
            (12, 0),
            (12, 1),
        ] {
            assert!(ARCHS.contains(&arch_of(capability).unwrap()));
        }
        assert_eq!(arch_of((7, 5)), None);
        assert_eq!(arch_of((13, 0)), None);
    }
}
