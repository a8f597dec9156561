//! Noise levels of the steps: from 1 down to 0.

use serde::{Deserialize, Serialize};

use crate::weights::{Config, WeightsError};

/// Levels of the second stage: the first is that of the noise added to the upsampled latents.
pub const REFINING: [f32; 4] = [0.909375, 0.725, 0.421875, 0.0];
/// Tokens that [`Shift::Fixed4096`] counts.
const FIXED_TOKENS: usize = 4096;

/// Which number of tokens a dynamic list is shifted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Shift {
    /// The clip's own, as the reference library does.
    #[default]
    Actual,
    /// 4096 for every size, as the makers' pipelines do.
    Fixed4096,
}

impl Shift {
    /// Tokens to count for a clip of `tokens`.
    pub fn tokens(self, tokens: usize) -> usize {
        match self {
            Self::Actual => tokens,
            Self::Fixed4096 => FIXED_TOKENS,
        }
    }
}

/// The list of distilled models.
pub const DISTILLED: [f32; 9] = [
    1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0,
];

/// Where a model's noise levels come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// A list made for the model; other numbers of steps are read off its line.
    List(Vec<f32>),
    /// Shifted towards noise by the number of tokens, and stretched to end at a given level.
    Dynamic(Dynamic),
}

/// Parameters of `scheduler_config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dynamic {
    base_shift: f64,
    max_shift: f64,
    base_tokens: f64,
    max_tokens: f64,
    terminal: Option<f64>,
}

impl Schedule {
    /// Reads `scheduler/scheduler_config.json`; without dynamic shifting the model is a distilled one.
    ///
    /// # Errors
    /// [`WeightsError::Field`].
    pub fn read(config: &Config) -> Result<Self, WeightsError> {
        if !config.get("use_dynamic_shifting", false)? {
            return Ok(Self::List(DISTILLED.to_vec()));
        }
        Ok(Self::Dynamic(Dynamic {
            base_shift: config.get("base_shift", 0.5)?,
            max_shift: config.get("max_shift", 1.15)?,
            base_tokens: config.get("base_image_seq_len", 256.0)?,
            max_tokens: config.get("max_image_seq_len", 4096.0)?,
            terminal: config.optional("shift_terminal")?,
        }))
    }

    /// A list that ends a model's own file: begins at 1, falls, ends at 0.
    pub fn is_valid_list(sigmas: &[f32]) -> bool {
        let falls = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
        sigmas.len() >= 2 && sigmas[0] == 1.0 && sigmas[sigmas.len() - 1] == 0.0 && falls
    }

    /// `steps` + 1 levels for a clip of `tokens` video tokens.
    pub fn sigmas(&self, steps: u32, tokens: usize) -> Vec<f32> {
        match self {
            Self::List(list) if list.len() == steps as usize + 1 => list.clone(),
            Self::List(list) => resampled(list, steps),
            Self::Dynamic(dynamic) => dynamic.sigmas(steps, tokens),
        }
    }
}

impl Dynamic {
    /// s_i = 1 - i/N; mu on the line through both shifts; s = e^mu / (e^mu + 1/s - 1); then 1 - s is
    /// scaled so that the last level is the terminal one.
    fn sigmas(&self, steps: u32, tokens: usize) -> Vec<f32> {
        let slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens);
        let shift = (self.base_shift + (tokens as f64 - self.base_tokens) * slope).exp();
        let line = (0..steps).map(|i| 1.0 - f64::from(i) / f64::from(steps));
        let mut levels: Vec<f64> = line.map(|s| shift / (shift + (1.0 / s - 1.0))).collect();
        let last = levels.last().copied().unwrap_or(1.0);
        if let Some(terminal) = self.terminal
            && last < 1.0
        {
            let scale = (1.0 - terminal) / (1.0 - last);
            levels
                .iter_mut()
                .for_each(|s| *s = 1.0 - (1.0 - *s) * scale);
        }
        levels.into_iter().chain([0.0]).map(|s| s as f32).collect()
    }
}

/// The list as a line over 0..1, read at `steps` + 1 even places.
fn resampled(list: &[f32], steps: u32) -> Vec<f32> {
    let intervals = list.len() - 1;
    let read = |i: u32| {
        let place = f64::from(i) * intervals as f64 / f64::from(steps);
        let index = (place as usize).min(intervals - 1);
        let part = place - index as f64;
        (f64::from(list[index]) * (1.0 - part) + f64::from(list[index + 1]) * part) as f32
    };
    (0..=steps).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn dynamic_levels_equal_the_reference() {
        let golden = Golden::open("sampler");
        let config =
            Config::parse("scheduler_config.json".as_ref(), golden.note("config")).unwrap();
        let schedule = Schedule::read(&config).unwrap();
        for (tokens, steps) in [(1024, 8), (4096, 30), (6144, 40), (208, 2)] {
            let name = format!("out.sigmas_{tokens}.sigmas");
            golden.check(&name, &schedule.sigmas(steps, tokens), 1e-6);
        }
        assert_eq!(schedule.sigmas(1, 208), [1.0, 0.0]);
    }

    #[test]
    fn levels_for_a_fixed_count_equal_the_reference_for_every_size() {
        let golden = Golden::open("masked");
        let config =
            Config::parse("scheduler_config.json".as_ref(), golden.note("config")).unwrap();
        let schedule = Schedule::read(&config).unwrap();
        let fixed = schedule.sigmas(30, Shift::Fixed4096.tokens(6144));
        golden.check("out.fixed4096.sigmas", &fixed, 1e-6);
        assert_ne!(fixed, schedule.sigmas(30, Shift::Actual.tokens(6144)));
    }

    #[test]
    fn a_list_keeps_its_own_length_and_bends_to_others() {
        let config = Config::parse("c.json".as_ref(), "{}").unwrap();
        let schedule = Schedule::read(&config).unwrap();
        assert_eq!(schedule.sigmas(8, 100), DISTILLED);
        for steps in [1, 3, 4, 7, 16, 200] {
            let levels = schedule.sigmas(steps, 100);
            assert_eq!(levels.len(), steps as usize + 1);
            assert!(Schedule::is_valid_list(&levels), "{levels:?}");
        }
        assert_eq!(schedule.sigmas(4, 100)[1], 0.9875);
    }

    #[test]
    fn lists_that_do_not_fall_from_one_to_zero_are_found() {
        for list in [
            &[1.0][..],
            &[0.9, 0.0],
            &[1.0, 0.5],
            &[1.0, 0.5, 0.5, 0.0],
            &[1.0, f32::NAN, 0.0],
        ] {
            assert!(!Schedule::is_valid_list(list), "{list:?}");
        }
    }
}
