//! Matrix products and convolutions.

use super::{ACTS, Bench, Case, Outcome, Scale, product_tolerance};
use crate::conv::cuda::{DeviceConv, Geometry, Path, conv, conv_on};
use crate::conv::{ConvWeights, Prologue, SpacePad};
use crate::conv1d::{Conv1dOptions, conv1d};
use crate::conv2d::{Conv2dOptions, conv2d};
use crate::conv3d::{Conv3dOptions, TimePad, conv3d};
use crate::cuda::Element;
use crate::linear::cuda::{DeviceEpilogue, interleave};
use crate::linear::{Epilogue, LinearWeights, linear};
use crate::modulation::{Rows, cuda::DeviceRows};
use crate::{KernelError, Tensor};

/// Names of the epilogues, in the order of `run_linear`.
const EPILOGUES: [&str; 6] = ["none", "gelu", "silu", "residual", "gated", "geglu"];
/// Rows of a large product that are compared.
const SAMPLED_ROWS: usize = 32;

pub(super) fn cases(scale: Scale, hopper: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let small = [
        (1, 2, 1),
        (127, 130, 64),
        (129, 6, 72),
        (3, 128, 200),
        (130, 258, 65),
    ];
    for act in ACTS {
        for (m, n, k) in small {
            (0..EPILOGUES.len()).for_each(|kind| products(&mut cases, act, [m, n, k], kind));
        }
        convolutions(&mut cases, act, scale, hopper);
    }
    if scale == Scale::Model {
        let shapes = [
            [6144, 4096, 4096],
            [6144, 16_384, 4096],
            [6144, 4096, 16_384],
            [126, 2048, 2048],
        ];
        for shape in shapes {
            [0, 4]
                .iter()
                .for_each(|kind| products(&mut cases, Element::BF16, shape, *kind));
        }
    }
    cases
}

fn products(cases: &mut Vec<Case>, act: Element, dims: [usize; 3], kind: usize) {
    let [m, n, k] = dims;
    let shape = format!("{act:?} {m}x{n}x{k} {}", EPILOGUES[kind]);
    cases.push(Case::new("linear", shape, move |bench| {
        run_linear(bench, act, dims, kind)
    }));
}

fn run_linear(
    bench: &Bench<'_>,
    act: Element,
    [m, n, k]: [usize; 3],
    kind: usize,
) -> Result<Outcome, KernelError> {
    let columns = if kind == 5 { n / 2 } else { n };
    let (x, w) = (
        bench.noise(Element::BF16, 1, &[m, k])?,
        bench.noise(Element::BF16, 2, &[n, k])?,
    );
    let (bias, start) = (
        bench.noise(Element::F32, 3, &[n])?,
        bench.noise(act, 4, &[m, columns])?,
    );
    let table = bench.noise(Element::F32, 5, &[2, 3, columns])?;
    let ids: Vec<u32> = (0..m as u32).map(|row| row % 2).collect();
    let (gates, groups) = (
        bench.put(Element::F32, &table)?,
        bench.gpu.upload_ids(&ids)?,
    );
    let gate = DeviceRows {
        table: &gates,
        slot: 1,
        groups: Some(&groups),
    };
    let device = [
        DeviceEpilogue::None,
        DeviceEpilogue::GeluTanh,
        DeviceEpilogue::Silu,
        DeviceEpilogue::Residual,
        DeviceEpilogue::GatedResidual(gate),
        DeviceEpilogue::GegluTanh,
    ][kind];
    // What adds to its output needs one; the others must write every element.
    let y = if kind == 3 || kind == 4 {
        bench.put(act, &start)?
    } else {
        bench.poisoned(act, &[m, columns])?
    };
    let weights = match kind {
        5 => bench
            .gpu
            .upload(Element::BF16, &[n, k], &interleave(w.f32s(), k))?,
        _ => bench.put(Element::BF16, &w)?,
    };
    let bias_array = bench.put(Element::F32, &bias)?;
    let with_bias = kind != 5;
    crate::linear::cuda::linear(
        bench.gpu,
        &bench.put(Element::BF16, &x)?,
        &weights,
        with_bias.then_some(&bias_array),
        device,
        &y,
    )?;
    let found = bench.gpu.download(&y)?;

    // The reference for some rows, spread over all.
    let step = m.div_ceil(SAMPLED_ROWS).max(1);
    let sampled: Vec<usize> = if m <= 512 {
        (0..m).collect()
    } else {
        (0..m).step_by(step).collect()
    };
    let rows = |t: &Tensor| -> Vec<f32> {
        let width = t.last_dim();
        sampled
            .iter()
            .flat_map(|row| t.f32s()[row * width..][..width].iter().copied())
            .collect()
    };
    let count = sampled.len();
    let x = Tensor::from_f32(bench.cpu, &[count, k], rows(&x))?;
    let mut expected = Tensor::from_f32(bench.cpu, &[count, columns], rows(&start))?;
    let ids = Tensor::from_u32(
        bench.cpu,
        &[count],
        sampled.iter().map(|row| ids[*row]).collect(),
    )?;
    let gate = Rows {
        table: &table,
        slot: 1,
        groups: Some(&ids),
    };
    let epilogue = [
        Epilogue::None,
        Epilogue::GeluTanh,
        Epilogue::Silu,
        Epilogue::Residual,
        Epilogue::GatedResidual(gate),
        Epilogue::GegluTanh,
    ][kind];
    let weights = match kind {
        5 => LinearWeights::pair(bench.cpu, &w)?,
        _ => LinearWeights::new(bench.cpu, &w)?,
    };
    linear(
        bench.cpu,
        &x,
        &weights,
        with_bias.then_some(&bias),
        epilogue,
        &mut expected,
    )?;
    // All of the output was written, the sampled rows are right.
    let unwritten = found.iter().find(|value| value.is_nan()).copied();
    let mut found: Vec<f32> = sampled
        .iter()
        .flat_map(|row| found[row * columns..][..columns].iter().copied())
        .collect();
    if let (Some(nan), Some(first)) = (unwritten, found.first_mut()) {
        *first = nan;
    }
    Ok(Outcome {
        found,
        expected: expected.f32s().to_vec(),
        tolerance: product_tolerance(act),
    })
}

fn convolutions(cases: &mut Vec<Case>, act: Element, scale: Scale, hopper: bool) {
    let mut volumes = vec![
        ([1, 3, 4, 5], 8, 6),
        ([2, 2, 6, 7], 72, 130),
        ([1, 2, 3, 4], 3, 5),
        ([1, 2, 9, 17], 40, 256),
    ];
    if scale == Scale::Model {
        volumes.extend([([1, 5, 32, 48], 128, 128), ([1, 3, 16, 24], 512, 512)]);
    }
    for (dims, inner, outer) in volumes {
        for (time, space) in [
            (TimePad::Causal, SpacePad::Zero),
            (TimePad::Copies, SpacePad::Reflect),
            (TimePad::Zero, SpacePad::Zero),
        ] {
            for path in [Path::Mma, Path::Hopper] {
                let fits = inner % 8 == 0 && inner >= 32;
                if path == Path::Hopper && !(hopper && fits) {
                    continue;
                }
                let shape =
                    format!("{path:?} {act:?} {dims:?} {inner}->{outer} {time:?} {space:?}");
                cases.push(Case::new("conv3d", shape, move |bench| {
                    run_conv3d(bench, path, act, dims, [inner, outer], time, space)
                }));
            }
        }
    }
    for (stride, channels) in [(1, 8), (2, 16)] {
        cases.push(Case::new(
            "conv2d",
            format!("{act:?} 2x9x10 {channels} stride {stride}"),
            move |bench| run_conv2d(bench, act, stride, channels),
        ));
    }
    for (dilation, channels) in [(1, 8), (3, 16), (5, 2)] {
        cases.push(Case::new(
            "conv1d",
            format!("{act:?} 2x50 {channels} dilation {dilation}"),
            move |bench| run_conv1d(bench, act, dilation, channels),
        ));
    }
}

fn run_conv3d(
    bench: &Bench<'_>,
    path: Path,
    act: Element,
    [b, t, h, w]: [usize; 4],
    [inner, outer]: [usize; 2],
    time: TimePad,
    space: SpacePad,
) -> Result<Outcome, KernelError> {
    let x = bench.noise(Element::BF16, 1, &[b, t, h, w, inner])?;
    let (weight, bias) = (
        bench.noise(Element::BF16, 2, &[outer, inner, 3, 3, 3])?,
        bench.noise(Element::F32, 3, &[outer])?,
    );
    let residual = bench.noise(act, 4, &[b, t, h, w, outer])?;
    let mut expected = bench.zeros(&[b, t, h, w, outer])?;
    let options = Conv3dOptions {
        time,
        space,
        prologue: Prologue::None,
    };
    let weights = ConvWeights::new(bench.cpu, &weight, Some(&bias))?;
    conv3d(
        bench.cpu,
        &x,
        &weights,
        options,
        Some(&residual),
        &mut expected,
    )?;
    let device = DeviceConv::upload(
        bench.gpu,
        weight.f32s(),
        [outer, inner],
        [3; 3],
        Some(bias.f32s()),
    )?;
    let before = [if time == TimePad::Causal { 2 } else { 1 }, 1, 1];
    let geometry = Geometry {
        stride: [1; 3],
        dilation: 1,
        before,
        out: [t, h, w],
        time,
        space,
    };
    let out = bench.poisoned(act, &[b, t, h, w, outer])?;
    let (x, residual) = (bench.put(Element::BF16, &x)?, bench.put(act, &residual)?);
    conv_on(
        bench.gpu,
        path,
        &x,
        &device,
        geometry,
        Some(&residual),
        &out,
    )?;
    // Tensor cores cut their sums off instead of rounding them, so the error grows with the length: on an
    // H100 1.9e-6, 3.4e-6 and 1.5e-5 for 1,944, 3,456 and 13,824 products.
    let growth = match act {
        Element::F32 => (27.0 * inner as f64 / 4096.0).max(1.0),
        _ => 1.0,
    };
    bench.outcome(&out, &expected, growth * product_tolerance(act))
}

fn run_conv2d(
    bench: &Bench<'_>,
    act: Element,
    stride: usize,
    channels: usize,
) -> Result<Outcome, KernelError> {
    let (x, weight) = (
        bench.noise(Element::BF16, 1, &[2, 9, 10, channels])?,
        bench.noise(Element::BF16, 2, &[12, channels, 3, 3])?,
    );
    let options = Conv2dOptions {
        top: 2,
        bottom: 0,
        left: 1,
        right: 1,
        stride,
        prologue: Prologue::None,
    };
    let weights = ConvWeights::new(bench.cpu, &weight, None)?;
    let [out_h, out_w] = options
        .out_size(&weights, 9, 10)
        .expect("the picture is larger than the kernel");
    let mut expected = bench.zeros(&[2, out_h, out_w, 12])?;
    conv2d(bench.cpu, &x, &weights, options, None, &mut expected)?;
    let device = DeviceConv::upload(bench.gpu, weight.f32s(), [12, channels], [1, 3, 3], None)?;
    let geometry = Geometry {
        stride: [1, stride, stride],
        dilation: 1,
        before: [0, 2, 1],
        out: [1, out_h, out_w],
        time: TimePad::Zero,
        space: SpacePad::Zero,
    };
    let x = bench.put(Element::BF16, &x.reshaped(&[2, 1, 9, 10, channels])?)?;
    let out = bench.poisoned(act, &[2, 1, out_h, out_w, 12])?;
    conv(bench.gpu, &x, &device, geometry, None, &out)?;
    bench.outcome(&out, &expected, product_tolerance(act))
}

fn run_conv1d(
    bench: &Bench<'_>,
    act: Element,
    dilation: usize,
    channels: usize,
) -> Result<Outcome, KernelError> {
    let (x, weight) = (
        bench.noise(Element::BF16, 1, &[2, 50, channels])?,
        bench.noise(Element::BF16, 2, &[10, channels, 7])?,
    );
    let mut expected = bench.zeros(&[2, 50, 10])?;
    let weights = ConvWeights::new(bench.cpu, &weight, None)?;
    conv1d(
        bench.cpu,
        &x,
        &weights,
        Conv1dOptions {
            dilation,
            prologue: Prologue::None,
        },
        None,
        &mut expected,
    )?;
    let device = DeviceConv::upload(bench.gpu, weight.f32s(), [10, channels], [1, 1, 7], None)?;
    let geometry = Geometry {
        stride: [1; 3],
        dilation,
        before: [0, 0, 3 * dilation],
        out: [1, 1, 50],
        time: TimePad::Zero,
        space: SpacePad::Zero,
    };
    let x = bench.put(Element::BF16, &x.reshaped(&[2, 1, 1, 50, channels])?)?;
    let out = bench.poisoned(act, &[2, 1, 1, 50, 10])?;
    conv(bench.gpu, &x, &device, geometry, None, &out)?;
    bench.outcome(&out, &expected, product_tolerance(act))
}
