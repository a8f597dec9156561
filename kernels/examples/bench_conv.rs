//! Prints GFLOP/s of the convolutions beside those of one 1024^3 matrix product of the same process.
//!
//! `cargo run -p kernels --example bench_conv [THREADS]`

use std::time::Instant;

use kernels::conv::{ConvWeights, Prologue, SpacePad};
use kernels::conv1d::{Conv1dOptions, conv1d};
use kernels::conv3d::{Conv3dOptions, TimePad, conv3d};
use kernels::{Device, KernelError, Tensor};

/// Seconds of the fastest of several runs.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn gemm_rate(threads: usize) -> f64 {
    const N: usize = 1024;
    let (a, b, mut c) = (
        vec![0.5f32; N * N],
        vec![0.25f32; N * N],
        vec![0.0f32; N * N],
    );
    let parallelism = if threads > 1 {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    let n = N as isize;
    let seconds = best(|| {
        // SAFETY: three row-major matrices of N x N values, none overlapping the output.
        unsafe {
            gemm::gemm(
                N,
                N,
                N,
                c.as_mut_ptr(),
                1,
                n,
                false,
                a.as_ptr(),
                1,
                n,
                b.as_ptr(),
                1,
                n,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    });
    2.0 * (N * N * N) as f64 / seconds / 1e9
}

fn conv3d_rate(
    device: &Device,
    dims: [usize; 5],
    out: usize,
    kernel: usize,
) -> Result<f64, KernelError> {
    let [b, t, h, w, c] = dims;
    let x = Tensor::from_f32(device, &dims, vec![0.5; dims.iter().product()])?;
    let weight = Tensor::from_f32(
        device,
        &[out, c, kernel, kernel, kernel],
        vec![0.01; out * c * kernel.pow(3)],
    )?;
    let weights = ConvWeights::new(device, &weight, None)?;
    let mut y = Tensor::zeros_f32(device, &[b, t, h, w, out])?;
    let prologue = if kernel == 1 {
        Prologue::None
    } else {
        Prologue::PixelNormSilu { eps: 1e-8 }
    };
    let options = Conv3dOptions {
        time: TimePad::Copies,
        space: SpacePad::Zero,
        prologue,
    };
    let mut result = Ok(());
    let seconds = best(|| result = conv3d(device, &x, &weights, options, None, &mut y));
    result?;
    Ok(2.0 * (b * t * h * w * c * out * kernel.pow(3)) as f64 / seconds / 1e9)
}

fn conv1d_rate(device: &Device, dims: [usize; 3], dilation: usize) -> Result<f64, KernelError> {
    let [b, l, c] = dims;
    let x = Tensor::from_f32(device, &dims, vec![0.5; dims.iter().product()])?;
    let weight = Tensor::from_f32(device, &[c, c, 7], vec![0.01; c * c * 7])?;
    let weights = ConvWeights::new(device, &weight, None)?;
    let mut y = Tensor::zeros_f32(device, &dims)?;
    let options = Conv1dOptions {
        dilation,
        prologue: Prologue::Leaky { slope: 0.1 },
    };
    let mut result = Ok(());
    let seconds = best(|| result = conv1d(device, &x, &weights, options, None, &mut y));
    result?;
    Ok(2.0 * (b * l * c * c * 7) as f64 / seconds / 1e9)
}

fn main() -> Result<(), KernelError> {
    let threads = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    let device = Device::cpu(threads)?;
    let gemm = gemm_rate(threads);
    println!("{threads} threads; gemm 1024^3: {gemm:.1} GFLOP/s");
    for (dims, out, kernel) in [
        ([1, 17, 4, 7, 32], 64, 3),
        ([1, 17, 4, 7, 64], 64, 3),
        ([1, 33, 8, 14, 32], 256, 3),
        ([1, 65, 16, 28, 32], 32, 3),
        ([1, 65, 16, 28, 32], 48, 3),
        ([1, 25, 32, 32, 64], 64, 3),
        ([1, 9, 32, 32, 128], 128, 3),
        ([1, 5, 16, 24, 512], 512, 3),
        ([1, 1, 1, 476, 128], 128, 1),
        ([1, 1, 1, 476, 128], 512, 1),
        ([1, 1, 1, 476, 512], 128, 1),
        ([1, 1, 1, 1024, 1024], 1024, 1),
    ] {
        let rate = conv3d_rate(&device, dims, out, kernel)?;
        println!(
            "conv3d k{kernel} {dims:?} -> {out}: {rate:.1} GFLOP/s, {:.0} % of gemm",
            rate / gemm * 100.0
        );
    }
    for (dims, dilation) in [
        ([1, 500, 32], 1),
        ([1, 32_000, 8], 1),
        ([1, 32_000, 8], 5),
        ([1, 64_000, 4], 3),
    ] {
        let rate = conv1d_rate(&device, dims, dilation)?;
        println!(
            "conv1d k7 {dims:?} dilation {dilation}: {rate:.1} GFLOP/s, {:.0} %",
            rate / gemm * 100.0
        );
    }
    Ok(())
}
