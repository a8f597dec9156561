//! The sampler's arithmetic on the CPU. Sums run in one order, in f64.

use super::{Guidance, Held, Passes};
use crate::{Cpu, Tensor};

/// Tokens of one piece of work.
const BLOCK_TOKENS: usize = 64;

/// Coefficients of each pass's velocity in the guided x0.
struct Combination<'a> {
    sigma: f32,
    conditional: &'a [f32],
    others: Vec<(&'a [f32], f32)>,
}

impl Combination<'_> {
    /// The conditional and the guided x0 of element `e`.
    #[inline(always)]
    fn clean(&self, x: f32, e: usize) -> (f32, f32) {
        let base = x - self.sigma * self.conditional[e];
        let mut guided = base;
        for (velocity, weight) in &self.others {
            guided += weight * (base - (x - self.sigma * velocity[e]));
        }
        (base, guided)
    }
}

pub(super) fn guidance_step(
    cpu: &Cpu,
    x: &mut Tensor,
    passes: Passes<'_>,
    guidance: Guidance,
    (sigma, sigma_next): (f32, f32),
    held: Option<Held<'_>>,
) {
    let others = [
        (passes.negative, guidance.scale - 1.0),
        (passes.perturbed, guidance.perturbed),
        (passes.isolated, guidance.modality - 1.0),
    ];
    let others = others.iter().filter(|(_, weight)| *weight != 0.0);
    let combination = Combination {
        sigma,
        conditional: passes.conditional.f32s(),
        others: others
            .filter_map(|(pass, weight)| Some((pass.as_ref()?.f32s(), *weight)))
            .collect(),
    };
    let factor = match guidance.rescale {
        0.0 => 1.0,
        share => share * spread_ratio(x.f32s(), &combination) + (1.0 - share),
    };
    let channels = x.last_dim();
    let slope = (sigma_next - sigma) / sigma;
    cpu.for_each_chunk(x.f32s_mut(), BLOCK_TOKENS * channels, |block, x| {
        let first = block * BLOCK_TOKENS * channels;
        for (index, x) in x.iter_mut().enumerate() {
            let e = first + index;
            let mut x0 = combination.clean(*x, e).1 * factor;
            if let Some(held) = &held {
                let m = held.strength.f32s()[e / channels];
                x0 = x0 * (1.0 - m) + held.clean.f32s()[e] * m;
            }
            *x += slope * (*x - x0);
        }
    });
}

/// std(conditional x0) / std(guided x0); 1 when the guided one does not vary.
fn spread_ratio(x: &[f32], combination: &Combination<'_>) -> f32 {
    let mut sums = [0.0f64; 4];
    for (e, x) in x.iter().enumerate() {
        let (base, guided) = combination.clean(*x, e);
        let (base, guided) = (f64::from(base), f64::from(guided));
        for (sum, term) in sums
            .iter_mut()
            .zip([base, base * base, guided, guided * guided])
        {
            *sum += term;
        }
    }
    let count = x.len().max(1) as f64;
    let variance = |sum: f64, squares: f64| (squares / count - (sum / count).powi(2)).max(0.0);
    let (base, guided) = (variance(sums[0], sums[1]), variance(sums[2], sums[3]));
    if guided > 0.0 {
        (base / guided).sqrt() as f32
    } else {
        1.0
    }
}

pub(super) fn axpby(cpu: &Cpu, a: f32, x: &mut Tensor, b: f32, y: &Tensor) {
    const BLOCK: usize = 4096;
    let y = y.f32s();
    cpu.for_each_chunk(x.f32s_mut(), BLOCK, |block, x| {
        x.iter_mut()
            .zip(&y[block * BLOCK..])
            .for_each(|(x, y)| *x = a * *x + b * y);
    });
}
