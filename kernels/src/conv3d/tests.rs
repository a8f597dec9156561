//! `conv3d` against plain loops.

use super::*;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0)
        .collect()
}

fn outside(at: isize, length: isize, space: SpacePad) -> Option<isize> {
    match space {
        _ if (0..length).contains(&at) => Some(at),
        SpacePad::Zero => None,
        SpacePad::Reflect => Some(if at < 0 { -at } else { 2 * (length - 1) - at }),
    }
}

fn before(x: &[f32], prologue: Prologue) -> Vec<f64> {
    let x = x.iter().map(|x| f64::from(*x));
    match prologue {
        Prologue::None => x.collect(),
        Prologue::Leaky { slope } => x
            .map(|x| if x > 0.0 { x } else { x * f64::from(slope) })
            .collect(),
        Prologue::PixelNormSilu { eps } => {
            let mean = x.clone().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let root = (mean + f64::from(eps)).sqrt();
            x.map(|x| x / root / (1.0 + (-x / root).exp())).collect()
        }
    }
}

/// The formula of the contract, one output value at a time.
fn plain(
    x: &Tensor,
    weight: &Tensor,
    bias: &[f32],
    options: Conv3dOptions,
    residual: &[f32],
) -> Vec<f64> {
    let [batch, time, height, width, inner]: [usize; 5] = x.dims().try_into().unwrap();
    let [outer, _, kt, kh, kw]: [usize; 5] = weight.dims().try_into().unwrap();
    let left = if options.time == TimePad::Causal {
        kt - 1
    } else {
        kt / 2
    };
    let mut out = Vec::new();
    for at in 0..batch * time * height * width {
        let (b, t) = (at / (time * height * width), at / (height * width) % time);
        let (h, w) = (at / width % height, at % width);
        let mut sums: Vec<f64> = (0..outer)
            .map(|o| f64::from(bias[o]) + f64::from(residual[at * outer + o]))
            .collect();
        for tap in 0..kt * kh * kw {
            let (i, j, k) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let frame = (t + i) as isize - left as isize;
            if options.time == TimePad::Zero && !(0..time as isize).contains(&frame) {
                continue;
            }
            let frame = frame.clamp(0, time as isize - 1) as usize;
            let y = outside(
                (h + j) as isize - (kh / 2) as isize,
                height as isize,
                options.space,
            );
            let z = outside(
                (w + k) as isize - (kw / 2) as isize,
                width as isize,
                options.space,
            );
            let (Some(y), Some(z)) = (y, z) else { continue };
            let pixel = ((b * time + frame) * height + y as usize) * width + z as usize;
            let pixel = before(&x.f32s()[pixel * inner..][..inner], options.prologue);
            for (o, sum) in sums.iter_mut().enumerate() {
                for (c, x) in pixel.iter().enumerate() {
                    let weight = weight.f32s()[((o * inner + c) * kt * kh * kw) + tap];
                    *sum += x * f64::from(weight);
                }
            }
        }
        out.extend(sums);
    }
    out
}

fn check(dims: [usize; 5], outer: usize, kernel: [usize; 3], options: Conv3dOptions) {
    let device = Device::cpu(2).unwrap();
    let [batch, time, height, width, inner] = dims;
    let tensor = |dims: &[usize], seed| {
        Tensor::from_f32(&device, dims, values(dims.iter().product(), seed)).unwrap()
    };
    let x = tensor(&dims, 1);
    let weight = tensor(&[outer, inner, kernel[0], kernel[1], kernel[2]], 2);
    let bias = tensor(&[outer], 3);
    let residual = tensor(&[batch, time, height, width, outer], 4);
    let weights = ConvWeights::new(&device, &weight, Some(&bias)).unwrap();
    let mut out = tensor(residual.dims(), 5);
    conv3d(&device, &x, &weights, options, Some(&residual), &mut out).unwrap();
    let expected = plain(&x, &weight, bias.f32s(), options, residual.f32s());
    let norm = expected.iter().map(|y| y * y).sum::<f64>().sqrt();
    let pairs = out.f32s().iter().zip(&expected);
    let error = pairs
        .map(|(a, b)| (f64::from(*a) - b).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!(
        error <= 1e-5 * norm,
        "{dims:?} -> {outer}, {options:?}: {}",
        error / norm
    );

    let one = Device::cpu(1).unwrap();
    let mut again = Tensor::zeros_f32(&one, out.dims()).unwrap();
    conv3d(&one, &x, &weights, options, Some(&residual), &mut again).unwrap();
    assert_eq!(out.f32s(), again.f32s(), "one thread gives other bits");
}

const PLAIN: Conv3dOptions = Conv3dOptions {
    time: TimePad::Copies,
    space: SpacePad::Zero,
    prologue: Prologue::None,
};

#[test]
fn every_padding_and_prologue_agrees_with_plain_loops() {
    let prologues = [
        Prologue::None,
        Prologue::PixelNormSilu { eps: 1e-8 },
        Prologue::Leaky { slope: 0.1 },
    ];
    for time in [TimePad::Causal, TimePad::Copies, TimePad::Zero] {
        for space in [SpacePad::Zero, SpacePad::Reflect] {
            for prologue in prologues {
                check(
                    [2, 3, 4, 5, 6],
                    7,
                    [3, 3, 3],
                    Conv3dOptions {
                        time,
                        space,
                        prologue,
                    },
                );
            }
        }
    }
}

#[test]
fn odd_shapes_agree_with_plain_loops() {
    check([1, 1, 1, 1, 1], 1, [3, 3, 3], PLAIN);
    check([1, 2, 3, 17, 32], 33, [3, 3, 3], PLAIN);
    check([1, 1, 2, 7, 100], 48, [3, 3, 3], PLAIN);
    check([1, 3, 2, 3, 5], 64, [1, 1, 1], PLAIN);
    check([1, 5, 1, 9, 3], 9, [1, 3, 3], PLAIN);
    check(
        [1, 9, 12, 11, 8],
        20,
        [3, 1, 1],
        Conv3dOptions {
            time: TimePad::Causal,
            ..PLAIN
        },
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let device = Device::cpu(1).unwrap();
    let zeros = |dims: &[usize]| Tensor::zeros_f32(&device, dims).unwrap();
    let weights = ConvWeights::new(&device, &zeros(&[4, 2, 3, 3, 3]), None).unwrap();
    let (good, mut out) = (zeros(&[1, 2, 3, 3, 2]), zeros(&[1, 2, 3, 3, 4]));
    conv3d(&device, &good, &weights, PLAIN, None, &mut out).unwrap();
    assert!(
        conv3d(
            &device,
            &zeros(&[1, 2, 3, 3, 3]),
            &weights,
            PLAIN,
            None,
            &mut out
        )
        .is_err()
    );
    assert!(
        conv3d(
            &device,
            &zeros(&[2, 3, 3, 2]),
            &weights,
            PLAIN,
            None,
            &mut out
        )
        .is_err()
    );
    assert!(conv3d(&device, &good, &weights, PLAIN, Some(&good), &mut out).is_err());
    let even = ConvWeights::new(&device, &zeros(&[4, 2, 2, 3, 3]), None).unwrap();
    assert!(conv3d(&device, &good, &even, PLAIN, None, &mut out).is_err());
    let reflect = Conv3dOptions {
        space: SpacePad::Reflect,
        ..PLAIN
    };
    let (thin, mut out) = (zeros(&[1, 2, 1, 3, 2]), zeros(&[1, 2, 1, 3, 4]));
    let error = conv3d(&device, &thin, &weights, reflect, None, &mut out).unwrap_err();
    assert!(matches!(error, KernelError::Unsupported { .. }));
}
