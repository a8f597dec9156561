//! The noise levels of a step in tensors that stay where they are: all that differs from one step to the next.
//!
//! A token that is held by m is at (1 - m) of the step's level; a stream that is given whole is at level 0 itself.

use kernels::{Device, KernelError, Tensor};

use crate::sampler::{Held, Sampler};
use crate::transformer::{Noise, Times};

/// The transformer's timesteps run from 0 to this.
const TIMESTEP_SCALE: f32 = 1000.0;

/// Levels of both streams, and of the Euler step.
pub(crate) struct Levels {
    /// For the transformer.
    pub noise: Noise,
    /// [2]: this level and the next.
    pub sigmas: Tensor,
}

/// A stream's levels as numbers: one for each group of tokens, and the stream's own.
fn stream(held: Option<&Held>, sigma: f32) -> (Vec<f32>, f32) {
    let timestep = sigma * TIMESTEP_SCALE;
    match held {
        None => (vec![timestep], timestep),
        Some(held) if held.is_whole() => (vec![0.0], 0.0),
        Some(held) => {
            let each = groups(held).0.into_iter().map(|m| timestep * (1.0 - m));
            (each.collect(), timestep)
        }
    }
}

/// The strengths that there are, and which of them each token has.
fn groups(held: &Held) -> (Vec<f32>, Vec<u32>) {
    let mut strengths: Vec<f32> = Vec::new();
    let group = |m: &f32| {
        let known = strengths.iter().position(|k| k.to_bits() == m.to_bits());
        if known.is_none() {
            strengths.push(*m);
        }
        known.unwrap_or(strengths.len() - 1) as u32
    };
    let groups = held.strength.iter().map(group).collect();
    (strengths, groups)
}

fn upload(
    device: &Device,
    held: Option<&Held>,
    sigma: f32,
) -> Result<(Times, Tensor), KernelError> {
    let (values, level) = stream(held, sigma);
    let groups = match held.filter(|held| !held.is_whole()) {
        Some(held) => {
            let groups = groups(held).1;
            Some(Tensor::from_u32(device, &[groups.len()], groups)?)
        }
        None => None,
    };
    let times = Times {
        values: Tensor::from_f32(device, &[values.len()], values)?,
        groups,
    };
    Ok((times, Tensor::from_f32(device, &[1], vec![level])?))
}

impl Levels {
    /// The levels of the first step.
    pub fn upload(sampler: &Sampler<'_>) -> Result<Self, KernelError> {
        let (device, sigma) = (sampler.device, sampler.sigmas[0]);
        let conditions = sampler.conditions;
        let (video, video_sigma) = upload(device, conditions.video.as_ref(), sigma)?;
        let (audio, audio_sigma) = upload(device, conditions.audio.as_ref(), sigma)?;
        Ok(Self {
            noise: Noise {
                video,
                audio,
                video_sigma,
                audio_sigma,
            },
            sigmas: Tensor::from_f32(device, &[2], vec![sigma; 2])?,
        })
    }

    /// Writes the levels of step `index`.
    pub fn set(&mut self, sampler: &Sampler<'_>, index: usize) -> Result<(), KernelError> {
        let (device, sigmas) = (sampler.device, &sampler.sigmas[index..index + 2]);
        let (conditions, noise) = (sampler.conditions, &mut self.noise);
        let streams = [
            (&conditions.video, &mut noise.video, &mut noise.video_sigma),
            (&conditions.audio, &mut noise.audio, &mut noise.audio_sigma),
        ];
        for (held, times, own) in streams {
            let (values, level) = stream(held.as_ref(), sigmas[0]);
            times.values.overwrite(device, &values)?;
            own.overwrite(device, &[level])?;
        }
        self.sigmas.overwrite(device, sigmas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_one_strength_share_a_level() {
        let held = |strength: &[f32]| Held {
            strength: strength.to_vec(),
            clean: Vec::new(),
        };
        assert_eq!(stream(None, 0.5), (vec![500.0], 500.0));
        assert_eq!(stream(Some(&held(&[1.0, 1.0])), 0.5), (vec![0.0], 0.0));
        let some = held(&[1.0, 0.0, 0.25, 0.0]);
        assert_eq!(stream(Some(&some), 0.5), (vec![0.0, 500.0, 375.0], 500.0));
        assert_eq!(groups(&some).1, [0, 1, 2, 1]);
    }
}
