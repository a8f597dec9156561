//! The sampler's own arithmetic, in F32 on the latents: `guidance_step` (guidance and one Euler step
//! in one pass), `axpby` and `count_nonfinite`.

mod cpu;
pub mod cuda;

use crate::copy::cuda::cast;
use crate::cuda::Element;
use crate::{Cuda, Device, KernelError, Tensor};

/// Weights of the guidance passes of one stream.
///
/// With x0 = x - sigma v for each pass: `x0g = c + (scale-1)(c - negative) + perturbed (c - p) +
/// (modality-1)(c - i)`, then `x0g *= rescale std(c)/std(x0g) + 1 - rescale`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Guidance {
    /// Classifier-free guidance; 1 is off.
    pub scale: f32,
    /// Away from the pass whose self-attention is skipped; 0 is off.
    pub perturbed: f32,
    /// Away from the pass that does not see the other stream; 1 is off.
    pub modality: f32,
    /// Share of the result that keeps the spread of the conditional pass.
    pub rescale: f32,
}

impl Guidance {
    /// The conditional pass alone.
    pub const OFF: Self = Self {
        scale: 1.0,
        perturbed: 0.0,
        modality: 1.0,
        rescale: 0.0,
    };
}

/// Velocities of the passes of one step, each [N, C]. A pass may be absent when its weight is off.
#[derive(Clone, Copy)]
pub struct Passes<'a> {
    /// With the prompt.
    pub conditional: &'a Tensor,
    /// With the negative prompt.
    pub negative: Option<&'a Tensor>,
    /// With the prompt and skipped self-attention.
    pub perturbed: Option<&'a Tensor>,
    /// With the prompt and without the other stream.
    pub isolated: Option<&'a Tensor>,
}

/// Tokens that are held to given latents: `x0 = x0 (1 - m) + clean m`.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    /// m, one value a token [N].
    pub strength: &'a Tensor,
    /// [N, C]
    pub clean: &'a Tensor,
}

/// Noise levels of a step: this one and the next.
#[derive(Clone, Copy)]
pub enum Sigmas<'a> {
    /// As numbers.
    Numbers(f32, f32),
    /// F32 [2], which a recorded step reads anew each time it runs.
    Stored(&'a Tensor),
}

impl From<(f32, f32)> for Sigmas<'_> {
    fn from((sigma, next): (f32, f32)) -> Self {
        Self::Numbers(sigma, next)
    }
}

/// Combines the passes of one step and takes the Euler step from `sigma` to `sigma_next`, in place:
/// `x += (sigma_next - sigma) (x - x0) / sigma`, x0 the guided prediction of the clean latents.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`]; [`KernelError::Unsupported`] for a weight that is on while
/// its pass is absent, and for sigma <= 0 (of levels that are stored on a card, nobody looks).
pub fn guidance_step<'a>(
    device: &Device,
    x: &mut Tensor,
    passes: Passes<'_>,
    guidance: Guidance,
    sigmas: impl Into<Sigmas<'a>>,
    held: Option<Held<'_>>,
) -> Result<(), KernelError> {
    const OP: &str = "guidance_step";
    let [tokens, _] = x.expect_rank(OP, "x")?;
    passes.conditional.expect_f32(OP, "conditional", x.dims())?;
    let optional = [
        ("negative", passes.negative, guidance.scale != 1.0),
        ("perturbed", passes.perturbed, guidance.perturbed != 0.0),
        ("isolated", passes.isolated, guidance.modality != 1.0),
    ];
    for (name, pass, needed) in optional {
        match pass {
            Some(pass) => pass.expect_f32(OP, name, x.dims())?,
            None if needed => return Err(KernelError::unsupported(OP, format!("no {name} pass"))),
            None => {}
        }
    }
    if let Some(held) = &held {
        held.strength.expect_f32(OP, "strength", &[tokens])?;
        held.clean.expect_f32(OP, "clean", x.dims())?;
    }
    let sigmas = sigmas.into();
    if let Device::Cuda(card) = device {
        return guide_on_card(card, x, passes, guidance, sigmas, held);
    }
    let levels = sigmas.numbers()?;
    cpu::guidance_step(device.host(), x, passes, guidance, levels, held);
    Ok(())
}

impl Sigmas<'_> {
    fn numbers(self) -> Result<(f32, f32), KernelError> {
        let (sigma, next) = match self {
            Self::Numbers(sigma, next) => (sigma, next),
            Self::Stored(levels) => {
                levels.expect_f32("guidance_step", "sigmas", &[2])?;
                let levels = levels.values()?;
                (levels[0], levels[1])
            }
        };
        if sigma.is_nan() || sigma <= 0.0 {
            let why = format!("a sigma of {sigma}");
            return Err(KernelError::unsupported("guidance_step", why));
        }
        Ok((sigma, next))
    }
}

fn guide_on_card(
    card: &Cuda,
    x: &mut Tensor,
    passes: Passes<'_>,
    guidance: Guidance,
    sigmas: Sigmas<'_>,
    held: Option<Held<'_>>,
) -> Result<(), KernelError> {
    let levels = match sigmas {
        Sigmas::Stored(levels) => card.floats(levels)?,
        Sigmas::Numbers(..) => {
            let (sigma, next) = sigmas.numbers()?;
            card.gpu().upload(Element::F32, &[2], &[sigma, next])?
        }
    };
    let conditional = card.array(passes.conditional)?;
    let pass = |pass: Option<&Tensor>| {
        pass.map(|pass| card.cast(pass, conditional.element()))
            .transpose()
    };
    let (negative, perturbed, isolated) = (
        pass(passes.negative)?,
        pass(passes.perturbed)?,
        pass(passes.isolated)?,
    );
    let on_device = cuda::DevicePasses {
        conditional: &conditional,
        negative: negative.as_ref(),
        perturbed: perturbed.as_ref(),
        isolated: isolated.as_ref(),
    };
    let held = match held {
        Some(held) => Some((card.floats(held.strength)?, card.floats(held.clean)?)),
        None => None,
    };
    let held = held.as_ref().map(|(strength, clean)| (strength, clean));
    let (x, slots) = (card.own(x)?, cuda::guidance_slots(card.gpu())?);
    cuda::guidance_step(
        card.gpu(),
        &x,
        on_device,
        guidance,
        &levels,
        held,
        &slots,
        None,
    )
}

/// `x = a x + b y`, element by element.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn axpby(
    device: &Device,
    a: f32,
    x: &mut Tensor,
    b: f32,
    y: &Tensor,
) -> Result<(), KernelError> {
    x.expect_dtype("axpby", "x", crate::DType::F32)?;
    y.expect_f32("axpby", "y", x.dims())?;
    match device {
        Device::Cpu(cpu) => cpu::axpby(cpu, a, x, b, y),
        Device::Cuda(card) => {
            let (target, y) = (card.own(x)?, card.floats(y)?);
            let wide = card.cast_array(target.clone(), Element::F32)?;
            cuda::axpby(card.gpu(), a, &wide, b, &y)?;
            if target.element() != Element::F32 {
                cast(card.gpu(), &wide, &target)?;
            }
        }
    }
    Ok(())
}

/// How many elements are NaN or infinite.
///
/// # Errors
/// [`KernelError::DType`].
pub fn count_nonfinite(device: &Device, x: &Tensor) -> Result<usize, KernelError> {
    x.expect_dtype("count_nonfinite", "x", crate::DType::F32)?;
    if let Device::Cuda(card) = device {
        return cuda::count_nonfinite(card.gpu(), &card.array(x)?);
    }
    Ok(x.f32s().iter().filter(|value| !value.is_finite()).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise, tensor};

    #[test]
    fn all_passes_agree_with_double_precision() {
        let device = Device::cpu(2).unwrap();
        let dims = [700, 32];
        let [x, c, n, p, i] = [1, 2, 3, 4, 5].map(|seed| noise(seed, &dims));
        let strength = tensor(
            &[700],
            (0..700).map(|t| if t < 64 { 1.0 } else { 0.0 }).collect(),
        );
        let held = Held {
            strength: &strength,
            clean: &noise(6, &dims),
        };
        let guidance = Guidance {
            scale: 3.0,
            perturbed: 1.0,
            modality: 2.5,
            rescale: 0.7,
        };
        let (s, next) = (0.8f64, 0.55f64);
        let passes = Passes {
            conditional: &c,
            negative: Some(&n),
            perturbed: Some(&p),
            isolated: Some(&i),
        };
        let mut found = x.clone();
        guidance_step(
            &device,
            &mut found,
            passes,
            guidance,
            (0.8, 0.55),
            Some(held),
        )
        .unwrap();

        let clean = |v: &Tensor, e: usize| f64::from(x.f32s()[e]) - s * f64::from(v.f32s()[e]);
        let guided: Vec<f64> = (0..x.count())
            .map(|e| {
                let base = clean(&c, e);
                base + 2.0 * (base - clean(&n, e))
                    + (base - clean(&p, e))
                    + 1.5 * (base - clean(&i, e))
            })
            .collect();
        let std = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        let base: Vec<f64> = (0..x.count()).map(|e| clean(&c, e)).collect();
        let factor = 0.7 * std(&base) / std(&guided) + 0.3;
        let expected: Vec<f64> = (0..x.count())
            .map(|e| {
                let from = f64::from(x.f32s()[e]);
                let held = e / 32 < 64;
                let x0 = if held {
                    f64::from(held_clean(e))
                } else {
                    guided[e] * factor
                };
                from + (next - s) * (from - x0) / s
            })
            .collect();
        assert_close(found.f32s(), &expected, 1e-5);

        fn held_clean(e: usize) -> f32 {
            noise(6, &[e + 1]).f32s()[e]
        }
    }

    #[test]
    fn one_pass_is_a_plain_euler_step() {
        let device = Device::cpu(1).unwrap();
        let (x, v) = (noise(1, &[9, 5]), noise(2, &[9, 5]));
        let mut found = x.clone();
        let passes = Passes {
            conditional: &v,
            negative: None,
            perturbed: None,
            isolated: None,
        };
        guidance_step(&device, &mut found, passes, Guidance::OFF, (0.9, 0.4), None).unwrap();
        let expected = x
            .f32s()
            .iter()
            .zip(v.f32s())
            .map(|(x, v)| f64::from(*x) - 0.5 * f64::from(*v));
        assert_close(found.f32s(), &expected.collect::<Vec<_>>(), 1e-6);
    }

    #[test]
    fn a_missing_pass_and_a_zero_sigma_are_refused() {
        let device = Device::cpu(1).unwrap();
        let v = noise(2, &[9, 5]);
        let mut x = noise(1, &[9, 5]);
        let passes = Passes {
            conditional: &v,
            negative: None,
            perturbed: None,
            isolated: None,
        };
        let on = Guidance {
            scale: 2.0,
            ..Guidance::OFF
        };
        assert!(guidance_step(&device, &mut x, passes, on, (0.9, 0.4), None).is_err());
        assert!(guidance_step(&device, &mut x, passes, Guidance::OFF, (0.0, 0.0), None).is_err());
        assert!(
            guidance_step(
                &device,
                &mut x,
                passes,
                Guidance::OFF,
                (f32::NAN, 0.0),
                None
            )
            .is_err()
        );
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (c, n) = (noise(2, &[4000, 33]), noise(3, &[4000, 33]));
        let passes = Passes {
            conditional: &c,
            negative: Some(&n),
            perturbed: None,
            isolated: None,
        };
        let guidance = Guidance {
            scale: 2.0,
            rescale: 0.5,
            ..Guidance::OFF
        };
        let run = |threads| {
            let mut x = noise(1, &[4000, 33]);
            guidance_step(
                &Device::cpu(threads).unwrap(),
                &mut x,
                passes,
                guidance,
                (0.9, 0.4),
                None,
            )
            .unwrap();
            x
        };
        assert!(run(1).f32s() == run(2).f32s() && run(1).f32s() == run(3).f32s());
    }

    #[test]
    fn sums_are_elementwise() {
        let device = Device::cpu(1).unwrap();
        let mut x = tensor(&[2, 2], vec![1.0, 2.0, 3.0, f32::NAN]);
        assert_eq!(count_nonfinite(&device, &x).unwrap(), 1);
        x.f32s_mut()[3] = 4.0;
        axpby(&device, 2.0, &mut x, -1.0, &tensor(&[2, 2], vec![1.0; 4])).unwrap();
        assert_eq!(x.f32s(), [1.0, 3.0, 5.0, 7.0]);
        assert!(axpby(&device, 1.0, &mut x, 1.0, &noise(1, &[3])).is_err());
    }
}
