//! Modulation ops on the CPU.

use super::TIMESTEP_WIDTH;
use crate::simd::sigmoid;
use crate::{Cpu, Tensor};

pub(super) fn timestep_embed(timesteps: &Tensor, multiplier: f32, out: &mut Tensor) {
    const HALF: usize = TIMESTEP_WIDTH / 2;
    for (t, row) in timesteps
        .f32s()
        .iter()
        .zip(out.f32s_mut().chunks_mut(TIMESTEP_WIDTH))
    {
        for i in 0..HALF {
            // The reference rounds exponent, frequency and angle to f32 before the sinusoid.
            let exponent = -(10_000f64.ln() as f32) * i as f32 / HALF as f32;
            let frequency = f64::from(exponent).exp() as f32;
            let angle = f64::from(t * multiplier * frequency);
            row[i] = angle.cos() as f32;
            row[HALF + i] = angle.sin() as f32;
        }
    }
}

pub(super) fn ada_table(cpu: &Cpu, table: &Tensor, module: &Tensor, out: &mut Tensor) {
    let (table, module) = (table.f32s(), module.f32s());
    let size = table.len();
    cpu.for_each_chunk(out.f32s_mut(), size, |group, out| {
        let module = &module[group * size..][..size];
        out.iter_mut()
            .zip(table)
            .zip(module)
            .for_each(|((out, a), b)| *out = a + b);
    });
}

pub(super) fn head_gate(cpu: &Cpu, o: &mut Tensor, logits: &Tensor) {
    let (width, heads) = (o.last_dim(), logits.last_dim());
    let logits = logits.f32s();
    cpu.for_each_chunk(o.f32s_mut(), width, |token, row| {
        for (head, logit) in row.chunks_mut(width / heads).zip(&logits[token * heads..]) {
            let gate = 2.0 * sigmoid(*logit);
            head.iter_mut().for_each(|value| *value *= gate);
        }
    });
}
