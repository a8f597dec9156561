//! Norms, rotations, modulation, the sampler, activations.

use super::{ACTS, Bench, Case, Outcome, Scale, elementwise_tolerance};
use crate::activation::{Activation, activation, cuda::DeviceActivation};
use crate::cuda::{Array, Element};
use crate::modulation::{self, Rows, cuda::DeviceRows};
use crate::norm::{Modulation, Norm, Weight, cuda::DeviceModulation, norm_modulate};
use crate::rope::{
    Axis, Layout, QkNorm, RopeTable,
    cuda::{Columns, DeviceQkNorm, DeviceTable},
    plain_table, qk_norm_rope, rope_table,
};
use crate::sampling::{Guidance, Held, Passes, axpby, cuda as sampling, guidance_step};
use crate::{KernelError, Tensor};

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut rows: Vec<(usize, usize)> =
        vec![(1, 1), (3, 5), (2, 64), (5, 130), (3, 2048), (2, 4104)];
    if scale == Scale::Model {
        rows.extend([(6144, 4096), (126, 2048), (1024, 3840)]);
    }
    for act in ACTS {
        for (rows, width) in &rows {
            norms(&mut cases, act, *rows, *width);
            gates(&mut cases, act, *rows, *width);
        }
        rotations(&mut cases, act, scale);
        sampler(&mut cases, act, scale);
        activations(&mut cases, act);
    }
    cases.push(Case::new("ada_table", "2x(9x40)", ada));
    cases.push(Case::new("timestep_embed", "5", embed));
    cases.push(Case::new("axpby", "1003", sum));
    cases
}

/// A table of [2, 3, width] on both sides with groups for `rows` tokens.
fn table(
    bench: &Bench<'_>,
    rows: usize,
    width: usize,
) -> Result<(Tensor, Tensor, Array, Array), KernelError> {
    let table = bench.noise(Element::F32, 50, &[2, 3, width])?;
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 3 % 2).collect();
    let (array, groups) = (
        bench.put(Element::F32, &table)?,
        bench.gpu.upload_ids(&ids)?,
    );
    Ok((
        table,
        Tensor::from_u32(bench.cpu, &[rows], ids)?,
        array,
        groups,
    ))
}

fn norms(cases: &mut Vec<Case>, act: Element, rows: usize, width: usize) {
    for norm in [
        Norm::None,
        Norm::Rms { eps: 1e-6 },
        Norm::Layer { eps: 1e-6 },
    ] {
        for full in [false, true] {
            let shape = format!(
                "{act:?} {rows}x{width} {norm:?}{}",
                if full { " weight rows" } else { "" }
            );
            cases.push(Case::new("norm_modulate", shape, move |bench| {
                let x = bench.noise(act, 1, &[rows, width])?;
                let weight = bench.noise(Element::F32, 2, &[width])?;
                let (table, ids, array, groups) = table(bench, rows, width)?;
                let row = |slot| Rows {
                    table: &table,
                    slot,
                    groups: Some(&ids),
                };
                let device = |slot| DeviceRows {
                    table: &array,
                    slot,
                    groups: Some(&groups),
                };
                let mut y = bench.zeros(&[rows, width])?;
                let modulation = full.then(|| Modulation {
                    shift: row(1),
                    scale: row(2),
                });
                let one = if full {
                    Weight::OnePlus(&weight)
                } else {
                    Weight::One
                };
                norm_modulate(bench.cpu, &x, norm, one, modulation, &mut y)?;
                let (a, w, out) = (
                    bench.put(act, &x)?,
                    bench.put(Element::F32, &weight)?,
                    bench.poisoned(act, &[rows, width])?,
                );
                let modulation = full.then(|| DeviceModulation {
                    shift: device(1),
                    scale: device(2),
                });
                let weight = full.then_some((&w, 1.0));
                crate::norm::cuda::norm_modulate(bench.gpu, &a, norm, weight, modulation, &out)?;
                // One value alone has no variance: whatever is left of it is rounding.
                let single = width == 1 && matches!(norm, Norm::Layer { .. }) && !full;
                bench.outcome(
                    &out,
                    &y,
                    if single {
                        f64::MAX
                    } else {
                        elementwise_tolerance(act)
                    },
                )
            }));
        }
    }
}

fn gates(cases: &mut Vec<Case>, act: Element, rows: usize, width: usize) {
    cases.push(Case::new(
        "gated_residual",
        format!("{act:?} {rows}x{width}"),
        move |bench| {
            let (x, y) = (
                bench.noise(act, 1, &[rows, width])?,
                bench.noise(act, 2, &[rows, width])?,
            );
            let (table, ids, array, groups) = table(bench, rows, width)?;
            let gate = Rows {
                table: &table,
                slot: 1,
                groups: Some(&ids),
            };
            let values = x.f32s().iter().zip(y.f32s()).enumerate();
            let expected = values
                .map(|(i, (x, y))| x + gate.row(i / width)[i % width] * y)
                .collect();
            let expected = Tensor::from_f32(bench.cpu, &[rows, width], expected)?;
            let (a, b) = (bench.put(act, &x)?, bench.put(act, &y)?);
            let gate = DeviceRows {
                table: &array,
                slot: 1,
                groups: Some(&groups),
            };
            modulation::cuda::gated_residual(bench.gpu, &a, &b, gate)?;
            bench.outcome(&a, &expected, elementwise_tolerance(act))
        },
    ));
    let heads = if width.is_multiple_of(2) { 2 } else { 1 };
    cases.push(Case::new(
        "head_gate",
        format!("{act:?} {rows}x{width} {heads} heads"),
        move |bench| {
            let (mut o, logits) = (
                bench.noise(act, 1, &[rows, width])?,
                bench.noise(act, 2, &[rows, heads])?,
            );
            let (a, b) = (bench.put(act, &o)?, bench.put(act, &logits)?);
            modulation::head_gate(bench.cpu, &mut o, &logits)?;
            modulation::cuda::head_gate(bench.gpu, &a, &b)?;
            bench.outcome(&a, &o, elementwise_tolerance(act))
        },
    ));
}

fn ada(bench: &Bench<'_>) -> Result<Outcome, KernelError> {
    let (table, module) = (
        bench.noise(Element::F32, 1, &[9, 40])?,
        bench.noise(Element::F32, 2, &[2, 360])?,
    );
    let mut expected = bench.zeros(&[2, 9, 40])?;
    modulation::ada_table(bench.cpu, &table, &module, &mut expected)?;
    let out = bench.poisoned(Element::F32, &[2, 9, 40])?;
    let (table, module) = (
        bench.put(Element::F32, &table)?,
        bench.put(Element::F32, &module)?,
    );
    modulation::cuda::ada_table(bench.gpu, &table, &module, &out)?;
    bench.outcome(&out, &expected, 0.0)
}

fn embed(bench: &Bench<'_>) -> Result<Outcome, KernelError> {
    let times = bench.noise(Element::F32, 1, &[5])?;
    let mut expected = bench.zeros(&[5, 256])?;
    modulation::timestep_embed(bench.cpu, &times, 1000.0, &mut expected)?;
    let out = bench.poisoned(Element::F32, &[5, 256])?;
    modulation::cuda::timestep_embed(bench.gpu, &bench.put(Element::F32, &times)?, 1000.0, &out)?;
    bench.outcome(&out, &expected, 1e-5)
}

fn sum(bench: &Bench<'_>) -> Result<Outcome, KernelError> {
    let (mut x, y) = (
        bench.noise(Element::F32, 1, &[1003])?,
        bench.noise(Element::F32, 2, &[1003])?,
    );
    let (a, b) = (bench.put(Element::F32, &x)?, bench.put(Element::F32, &y)?);
    axpby(bench.cpu, 1.5, &mut x, -0.25, &y)?;
    sampling::axpby(bench.gpu, 1.5, &a, -0.25, &b)?;
    bench.outcome(&a, &x, 1e-6)
}

/// Tables as the model has them: its own, the same for pairs side by side, one shared by heads.
fn rope(
    rows: usize,
    heads: usize,
    d: usize,
    kind: usize,
) -> Result<(RopeTable, Layout), KernelError> {
    let positions: Vec<f32> = (0..rows).map(|row| row as f32 / 7.0).collect();
    let axis = Axis {
        positions: &positions,
        max: 20.0,
    };
    Ok(match kind {
        0 => (rope_table(&[axis], 1e4, heads * d)?, Layout::Split),
        1 => (rope_table(&[axis], 1e4, heads * d)?, Layout::Interleaved),
        _ => (plain_table(rows, d, 1e4, 1.0)?, Layout::Split),
    })
}

fn rotations(cases: &mut Vec<Case>, act: Element, scale: Scale) {
    let mut shapes = vec![(1, 1, 2), (5, 3, 8), (3, 4, 18), (2, 4, 64), (2, 32, 128)];
    if scale == Scale::Model {
        shapes.extend([(6144, 32, 128), (126, 32, 64)]);
    }
    for (rows, heads, d) in shapes {
        for kind in 0..4 {
            let shape = format!("{act:?} {rows}x{heads}x{d} kind {kind}");
            cases.push(Case::new("qk_norm_rope", shape, move |bench| {
                let (width, per_head) = (heads * d, kind >= 2);
                let (table, layout) = rope(rows, heads, d, kind)?;
                let mut x = bench.noise(act, 1, &[rows, width])?;
                let weight = bench.noise(Element::F32, 2, &[if per_head { d } else { width }])?;
                // Packed as [other, x]: the kernel must leave the other half alone.
                let packed: Vec<f32> = x
                    .f32s()
                    .chunks(width)
                    .flat_map(|row| [row, row].concat())
                    .collect();
                let packed = bench.gpu.upload(act, &[rows, 2 * width], &packed)?;
                let norm = QkNorm {
                    eps: 1e-6,
                    weight: Weight::Stored(&weight),
                    per_head,
                };
                let before = x.clone();
                qk_norm_rope(
                    bench.cpu,
                    &mut x,
                    heads,
                    norm,
                    (kind < 3).then_some((&table, layout)),
                )?;
                let halves = before.f32s().chunks(width).zip(x.f32s().chunks(width));
                let expected = halves.flat_map(|(a, b)| [a, b].concat()).collect();
                let expected = Tensor::from_f32(bench.cpu, &[rows, 2 * width], expected)?;
                let weight = bench.put(Element::F32, &weight)?;
                let norm = DeviceQkNorm {
                    eps: 1e-6,
                    weight: Some((&weight, 0.0)),
                    per_head,
                };
                let device = DeviceTable::upload(bench.gpu, &table)?;
                let rope = (kind < 3).then_some((&device, layout));
                let first = if width.is_multiple_of(8) { width } else { 0 };
                let columns = Columns {
                    rows: &packed,
                    first,
                    width,
                };
                crate::rope::cuda::qk_norm_rope(bench.gpu, columns, heads, norm, rope)?;
                if first == 0 {
                    // The first half was turned then: swap it back to where it is expected.
                    let found = bench.gpu.download(&packed)?;
                    let found: Vec<f32> = found
                        .chunks(2 * width)
                        .flat_map(|row| [&row[width..], &row[..width]].concat())
                        .collect();
                    return Ok(Outcome {
                        found,
                        expected: expected.f32s().to_vec(),
                        tolerance: elementwise_tolerance(act),
                    });
                }
                bench.outcome(&packed, &expected, elementwise_tolerance(act))
            }));
        }
    }
}

fn sampler(cases: &mut Vec<Case>, act: Element, scale: Scale) {
    let mut shapes = vec![(1, 1), (7, 5), (70, 32)];
    if scale == Scale::Model {
        shapes.push((14_080, 128));
    }
    for (tokens, channels) in shapes {
        for all in [false, true] {
            let shape = format!(
                "{act:?} {tokens}x{channels}{}",
                if all { " four passes, held" } else { "" }
            );
            cases.push(Case::new("guidance_step", shape, move |bench| {
                step(bench, act, [tokens, channels], all)
            }));
        }
    }
    cases.push(Case::new(
        "count_nonfinite",
        format!("{act:?} 1003"),
        move |bench| {
            let mut x = bench.noise(act, 1, &[1003])?;
            for (at, value) in [
                (0, f32::NAN),
                (500, f32::INFINITY),
                (1002, f32::NEG_INFINITY),
            ] {
                x.f32s_mut()[at] = value;
            }
            let found = sampling::count_nonfinite(bench.gpu, &bench.put(act, &x)?)?;
            Ok(Outcome {
                found: vec![found as f32],
                expected: vec![3.0],
                tolerance: 0.0,
            })
        },
    ));
}

fn step(
    bench: &Bench<'_>,
    act: Element,
    dims: [usize; 2],
    all: bool,
) -> Result<Outcome, KernelError> {
    let mut x = bench.noise(Element::F32, 1, &dims)?;
    let velocities = (2..6)
        .map(|salt| bench.noise(act, salt, &dims))
        .collect::<Result<Vec<_>, _>>()?;
    let arrays = velocities
        .iter()
        .map(|v| bench.put(act, v))
        .collect::<Result<Vec<_>, _>>()?;
    let strengths = (0..dims[0]).map(|token| if token % 3 == 0 { 1.0 } else { 0.0 });
    let strength = Tensor::from_f32(bench.cpu, &dims[..1], strengths.collect())?;
    let clean = bench.noise(Element::F32, 7, &dims)?;
    let guidance = match all {
        true => Guidance {
            scale: 3.0,
            perturbed: 1.0,
            modality: 2.5,
            rescale: 0.7,
        },
        false => Guidance::OFF,
    };
    let (x_array, slots) = (
        bench.put(Element::F32, &x)?,
        sampling::guidance_slots(bench.gpu)?,
    );
    let (s, c) = (
        bench.put(Element::F32, &strength)?,
        bench.put(Element::F32, &clean)?,
    );
    let input = bench.poisoned(act, &dims)?;
    let passes = sampling::DevicePasses {
        conditional: &arrays[0],
        negative: all.then_some(&arrays[1]),
        perturbed: all.then_some(&arrays[2]),
        isolated: all.then_some(&arrays[3]),
    };
    let held = all.then_some((&s, &c));
    sampling::guidance_step(
        bench.gpu,
        &x_array,
        passes,
        guidance,
        &bench.gpu.upload(Element::F32, &[2], &[0.9, 0.4])?,
        held,
        &slots,
        Some(&input),
    )?;
    let passes = Passes {
        conditional: &velocities[0],
        negative: all.then_some(&velocities[1]),
        perturbed: all.then_some(&velocities[2]),
        isolated: all.then_some(&velocities[3]),
    };
    let held = all.then_some(Held {
        strength: &strength,
        clean: &clean,
    });
    guidance_step(bench.cpu, &mut x, passes, guidance, (0.9, 0.4), held)?;
    let input = Outcome {
        found: bench.gpu.download(&input)?,
        expected: x.f32s().to_vec(),
        tolerance: elementwise_tolerance(act),
    };
    if !input.is_right() {
        return Ok(input);
    }
    bench.outcome(&x_array, &x, 1e-5)
}

/// What a value becomes.
type Function = fn(f32) -> f32;

fn activations(cases: &mut Vec<Case>, act: Element) {
    let plain = [
        Activation::Leaky { slope: 0.1 },
        Activation::Tanh,
        Activation::Clamp {
            low: -0.5,
            high: 0.25,
        },
    ];
    for function in plain {
        cases.push(Case::new(
            "activation",
            format!("{act:?} 1003 {function:?}"),
            move |bench| {
                let mut x = bench.noise(act, 1, &[1003])?;
                let a = bench.put(act, &x)?;
                activation(bench.cpu, function, &mut x)?;
                crate::activation::cuda::activation(
                    bench.gpu,
                    DeviceActivation::Plain(function),
                    &a,
                )?;
                bench.outcome(&a, &x, elementwise_tolerance(act))
            },
        ));
    }
    let functions: [(DeviceActivation, Function); 3] = [
        (DeviceActivation::Silu, crate::simd::silu),
        (DeviceActivation::GeluTanh, crate::simd::gelu_tanh),
        (DeviceActivation::Sigmoid, crate::simd::sigmoid),
    ];
    for (function, reference) in functions {
        cases.push(Case::new(
            "activation",
            format!("{act:?} 1003 {function:?}"),
            move |bench| {
                let x = bench.noise(act, 1, &[1003])?;
                let a = bench.put(act, &x)?;
                crate::activation::cuda::activation(bench.gpu, function, &a)?;
                let expected = Tensor::from_f32(
                    bench.cpu,
                    &[1003],
                    x.f32s().iter().map(|x| reference(*x)).collect(),
                )?;
                bench.outcome(&a, &expected, elementwise_tolerance(act))
            },
        ));
    }
}
